"""Where tickets are kept."""

from pathlib import Path

import pytest
from narthex.settings import SettingsError
from narthex_server.config.tickets import StorePlace, TicketSettings


def test_each_port_has_a_file_of_its_own_and_a_free_one_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    settings = TicketSettings()
    assert settings.where(50051) == str(tmp_path / "narthex" / "tickets-50051.sqlite")
    assert settings.where(0) is None
    named = TicketSettings(store=StorePlace.parse("/srv/tickets"))
    assert named.where(0) == named.where(1) == "/srv/tickets"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/tickets.sqlite", "/srv/tickets.sqlite"),
        ("postgresql://db/lot", "postgresql://db/lot"),
        ("postgresql://me:secret@db/lot?password=secret", "postgresql://…@db/lot"),
    ],
)
def test_a_place_is_shown_without_its_password(text: str, shown: str) -> None:
    assert str(StorePlace.parse(text)) == shown


@pytest.mark.parametrize("setting", ["lease", "max_seconds", "keep"])
def test_times_that_nothing_could_be_kept_for_are_refused(setting: str) -> None:
    with pytest.raises(SettingsError, match=f"--tickets-{setting.replace('_', '-')}: 1e"):
        TicketSettings(**{setting: 1e300})  # type: ignore[arg-type]
