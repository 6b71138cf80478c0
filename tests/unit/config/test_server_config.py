import json
from pathlib import Path

import pytest
from narthex.settings import NamedPath, SettingsError
from narthex_server.config import ServerConfig, Tls, from_command_line


def test_nothing_named_serves_the_demo():
    config = from_command_line([])
    assert config.demo
    assert config.models()[0].path.is_file()
    assert [server["name"] for server in config.upstreams()["servers"]] == ["time", "workspace"]
    assert Path(config.upstreams()["servers"][1]["source"]["args"][-1]).is_dir()


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
