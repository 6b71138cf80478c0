import pytest
from narthex.settings import SettingsError
from narthex.tracing.settings import Otel
from narthex.tracing.span import PassOn

VARIABLE = "OTEL_EXPORTER_OTLP_ENDPOINT"


def test_nothing_is_traced_without_an_endpoint(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert isinstance(Otel().tracer("x"), PassOn)


def test_an_endpoint_needs_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SettingsError, match=r"narthex\[otel\]"):
        Otel("http://127.0.0.1:4317").tracer("x")
    monkeypatch.setenv(VARIABLE, "http://127.0.0.1:4317")
    with pytest.raises(SettingsError, match=r"narthex\[otel\]"):
        Otel().tracer("x")


@pytest.mark.parametrize("settings", [{"endpoint": "127.0.0.1:4317"}, {"sample_ratio": 1.5}])
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(SettingsError):
        Otel(**settings)
