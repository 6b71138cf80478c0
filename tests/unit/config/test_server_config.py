import json
from pathlib import Path

import pytest
from narthex.settings import NamedPath, NamedText, NamedUrl, SettingsError
from narthex_server.config.server import ServerConfig, from_command_line
from narthex_server.config.tls import Tls
from narthex_server.tools.upstream.forms import parse_sources


def test_nothing_named_serves_the_demo():
    config = from_command_line([])
    assert config.demo
    assert config.models()[0].path.is_file()
    assert [server["name"] for server in config.upstreams()["servers"]] == ["time", "workspace"]
    assert Path(config.upstreams()["servers"][1]["source"]["args"][-1]).is_dir()
    time, workspace = parse_sources(config.upstreams())
    assert time.presentation.offers("get_current_time") and workspace.presentation.offers("search_files")
    assert not workspace.presentation.offers("search_text")


def test_a_model_turns_the_demo_off():
    config = from_command_line(["--model", "m=/x.gguf"])
    assert (config.models(), config.upstreams()) == ((NamedPath("m", Path("/x.gguf")),), {})


def test_an_mcp_config_alone_is_a_gateway_without_models(tmp_path):
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": {}}))
    config = from_command_line(["--mcp-config", str(file)])
    assert (config.models(), config.upstreams()) == ((), {"mcpServers": {}})


@pytest.mark.parametrize(("text", "told"), [("{", "not JSON"), ("[]", "JSON object"), (None, "cannot be read")])
def test_an_mcp_config_that_is_broken_is_told_with_its_path(tmp_path, text, told):
    file = tmp_path / "mcp.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(SettingsError, match=told):
        ServerConfig(mcp_config=file).upstreams()


def test_a_model_name_is_given_once(capsys):
    with pytest.raises(SystemExit) as ended:
        from_command_line(["--model", "m=/x", "--model", "m=/y"])
    assert ended.value.code == 2
    assert "'m' is given twice" in capsys.readouterr().err


def test_a_certificate_needs_its_key():
    with pytest.raises(SettingsError, match="belong together"):
        ServerConfig(tls=Tls(cert=Path("/c")))


def test_weights_are_quantised_as_flags_environment_and_file_say(tmp_path, monkeypatch):
    (tmp_path / "narthex.toml").write_text('[server]\nquantize = "q5_k"\ntopology = "t.yml"\n')
    config = from_command_line(["--config", str(tmp_path / "narthex.toml")])
    assert (config.quantize, config.topology) == ("q5_k", tmp_path / "t.yml")
    monkeypatch.setenv("NARTHEX_QUANTIZE", "q4k")
    assert from_command_line(["--config", str(tmp_path / "narthex.toml")]).quantize == "q4k"
    assert from_command_line(["--quantize", "8"]).quantize == "8"


def test_a_model_root_alone_is_a_server_that_waits_for_models(tmp_path):
    config = from_command_line(["--model-root", str(tmp_path), "--default-model", "later", "--idle-unload", "1.5"])
    assert (config.models(), config.upstreams(), config.idle_unload) == ((), {}, 1.5)


def test_a_default_that_can_never_be_there_is_refused():
    with pytest.raises(SettingsError, match="--default-model: there is no model 'x'; served are: m"):
        ServerConfig(model=(NamedPath("m", Path("/x")),), default_model="x")


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:3"])
def test_a_device_is_named(device):
    assert ServerConfig(device=device).device == device


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:0,1", "CPU"])
def test_another_device_is_told_which_there_are(device):
    with pytest.raises(SettingsError, match="none of auto, cpu, cuda, cuda:N"):
        ServerConfig(device=device)


BIG = NamedUrl("big", "openai", "http://gpu-box:8000/v1")


def test_remote_models_are_named_beside_local_ones(tmp_path):
    (tmp_path / "narthex.toml").write_text(
        '[server.model]\nbig = "openai+http://gpu-box:8000/v1/"\nm = "x.gguf"\n'
        '[server.model_key_file]\nbig = "key"\n[server.remote]\nread_timeout = 5\nverify = false\n'
    )
    config = from_command_line(["--config", str(tmp_path / "narthex.toml"), "--remote-max-requests", "3"])
    assert config.remote_models() == (BIG,) and config.models()[0] == BIG
    assert config.local_models() == (NamedPath("m", tmp_path / "x.gguf"),)
    assert (config.remote.read_timeout, config.remote.verify, config.remote.max_requests) == (5, False, 3)
    (tmp_path / "key").write_text("sk-1\n")
    assert (config.model_key("big"), config.model_key("m")) == ("sk-1", "")


def test_a_key_comes_from_the_environment(monkeypatch):
    config = ServerConfig(model=(BIG,), model_key_variable=(NamedText("big", "BIG_KEY"),))
    monkeypatch.setenv("BIG_KEY", "sk-2")
    assert config.model_key("big") == "sk-2"
    for value in ("", "sk ä", "a\nb: c", "two words"):
        monkeypatch.setenv("BIG_KEY", value)
        with pytest.raises(SettingsError, match="big=BIG_KEY: holds no API key") as caught:
            config.model_key("big")
        assert not value or value not in str(caught.value)


def test_a_key_that_cannot_be_read_is_told_without_it(tmp_path):
    config = ServerConfig(model=(BIG,), model_key_file=(NamedPath("big", tmp_path / "absent"),))
    with pytest.raises(SettingsError, match="absent cannot be read"):
        config.model_key("big")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model_key_file": (NamedPath("m", Path("/k")),)}, "no remote model 'm'"),
        ({"model_key_file": (NamedPath("big", Path("/k")),) * 2}, "more than one key"),
        ({"adapter": (NamedPath("big/a", Path("/a")),)}, "--adapter"),
        ({"xlora": (NamedPath("big", Path("/a")),)}, "--xlora: there is no model 'big'; loaded here are: m"),
        ({"tokenizer": (NamedPath("big", Path("/a")),)}, "--tokenizer"),
    ],
)
def test_options_that_no_remote_model_has_are_refused(options, told):
    with pytest.raises(SettingsError, match=told):
        ServerConfig(model=(BIG, NamedPath("m", Path("/m"))), **options)


@pytest.mark.parametrize(
    "url",
    ["http://me:sk-secret@host/v1", "http://sk-secret@host/v1", "http://host/v1?key=sk-secret", "ftp://sk-secret@h"],
)
def test_a_secret_in_a_url_is_refused_and_not_repeated(url, capsys):
    with pytest.raises(SystemExit) as ended:
        from_command_line(["--model", f"big=openai+{url}"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "sk-secret" not in told and "big" in told
