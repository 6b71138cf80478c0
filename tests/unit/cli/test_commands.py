import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest


def test_no_command_shows_the_help_and_is_a_usage_error(narthex):
    shown = narthex()
    assert shown.returncode == 2
    assert "doctor" in shown.stdout


def test_an_unknown_command_is_a_usage_error(narthex):
    assert narthex("serv").returncode == 2


@pytest.mark.parametrize("flag", ["--grpc", "--http", "--metrics"])
def test_a_port_in_use_names_the_option_to_change(narthex, flag):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        others = [word for other in ("--grpc", "--http", "--metrics") for word in (other, "127.0.0.1:0")]
        failed = narthex("serve", *others, flag, address)
    assert failed.returncode == 4
    assert f"choose another with {flag}" in failed.stderr


@pytest.mark.parametrize("older", ["--mcp-http-port", "--http-mcp-port"])
def test_the_older_spellings_set_the_http_port(narthex, older):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        failed = narthex("serve", "--grpc", "127.0.0.1:0", "--metrics", "127.0.0.1:0", older, port)
    assert failed.returncode == 4
    assert f"--http 127.0.0.1:{port}" in failed.stderr


def test_serve_ends_with_the_code_of_a_model_that_cannot_be_loaded(narthex, tmp_path):
    anywhere = [word for flag in ("--grpc", "--http", "--metrics") for word in (flag, "127.0.0.1:0")]
    failed = narthex("serve", *anywhere, "--model", f"none={tmp_path / 'none.gguf'}")
    assert failed.returncode == 3, failed.stderr


def test_serve_passes_a_usage_error_of_the_server_on(narthex):
    anywhere = [word for flag in ("--grpc", "--http", "--metrics") for word in (flag, "127.0.0.1:0")]
    failed = narthex("serve", *anywhere, "--max-slot", "3")
    assert failed.returncode == 2
    assert "--max-slot" in failed.stderr


def test_config_check_shows_what_is_in_effect(narthex, tmp_path):
    file = tmp_path / "narthex.toml"
    file.write_text('[server]\nmax_slots = 3\n[bridge]\nhttp = "127.0.0.1:80"\n')
    shown = narthex("config", "check", "--config", str(file), NARTHEX_THREADS="5")
    assert shown.returncode == 0, shown.stderr
    assert {"server.max_slots = 3", "server.threads = 5", "bridge.http = 127.0.0.1:80"} <= set(
        shown.stdout.splitlines()
    )


def test_config_check_and_doctor_name_paths_at_which_there_is_nothing(narthex, tmp_path):
    file = tmp_path / "narthex.toml"
    (tmp_path / "here").mkdir()
    file.write_text(
        '[server]\nmodel_root = "here"\ntopology = "none.yml"\ncache_dir = "made-later"\n'
        '[server.model]\nm = "gone.gguf"\n'
        '[bridge.server_tls]\nca = "no.pem"\n'
    )
    failed = narthex("config", "check", "--config", str(file))
    assert failed.returncode == 2
    told = [
        f"server.{key}: there is nothing at {tmp_path / name}"
        for key, name in (("model", "gone.gguf"), ("topology", "none.yml"))
    ]
    told.append(f"bridge.server_tls.ca: there is nothing at {tmp_path / 'no.pem'}")
    assert failed.stderr.count("there is nothing at") == 3 and all(line in failed.stderr for line in told)
    examined = narthex("doctor", "--config", str(file), NARTHEX_GRPC="127.0.0.1:0", NARTHEX_METRICS="127.0.0.1:0")
    assert examined.returncode == 1 and all(f"problem  {line}" in examined.stdout for line in told)


@pytest.mark.parametrize(("section", "key", "meant"), [("server", "max_slot", "max_slots"), ("bridge", "htpp", "http")])
def test_config_check_names_the_nearest_key(narthex, tmp_path, section, key, meant):
    file = tmp_path / "narthex.toml"
    file.write_text(f"[{section}]\n{key} = 3\n")
    failed = narthex("config", "check", "--config", str(file))
    assert failed.returncode == 2
    assert f'{file}: unknown key "{section}.{key}"; did you mean "{meant}"?' in failed.stderr


def test_keys_new_writes_the_hash_and_shows_the_secret_once(narthex, tmp_path):
    file = tmp_path / "keys.toml"
    secret = narthex("keys", "new", "--name", "ci", "--file", str(file)).stdout.strip()
    assert secret.startswith("nx_")
    assert secret not in file.read_text()
    assert narthex("keys", "new", "--name", "ci", "--file", str(file)).returncode == 2


def test_a_server_that_is_not_there_is_told_with_what_to_do(narthex):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        failed = narthex("models", "list", "--server", f"127.0.0.1:{unused.getsockname()[1]}")
    assert failed.returncode == 1
    assert "`narthex serve` starts one" in failed.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_an_interrupt_ends_a_conversation_that_waits_for_its_next_line():
    command = [sys.executable, "-m", "narthex.cli.main", "chat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as chat:
        try:
            assert chat.stdout.read(5) == b"you> "
            while chat.poll() is None:  # one between the prompt and the reading is not noticed
                chat.send_signal(signal.SIGINT)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    chat.wait(1)
            assert (chat.returncode, chat.stderr.read()) == (130, b"")
        finally:
            chat.kill()


def test_arguments_of_a_tool_must_be_a_json_object(narthex):
    assert narthex("tools", "call", "x", "[1]").returncode == 2
    assert narthex("tools", "call", "x", "{").returncode == 2


def test_doctor_names_what_is_in_the_way(narthex, tmp_path):
    config = tmp_path / "mcp-config.json"
    config.write_text(json.dumps({"mcpServers": {"gone": {"command": "no-such-command"}, "here": {"command": "sh"}}}))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        told = narthex("doctor", "--mcp-config", str(config), NARTHEX_GRPC=address)
    assert told.returncode == 1
    assert "choose another with --grpc" in told.stdout
    assert "upstream gone: no-such-command is not on this machine" in told.stdout
    assert "upstream here: " in told.stdout
    assert "CPUExecutionProvider" in told.stdout


def test_quantize_writes_a_folder_and_says_what_became_of_the_weights(narthex, tmp_path):
    model = str(Path(__file__).parents[2] / "golden" / "qwen3")
    (tmp_path / "t.yml").write_text("1: {isq: q8_0}\n")
    words = ("quantize", model, str(tmp_path / "out"), "--quantize", "4", "--topology", str(tmp_path / "t.yml"))
    done = narthex(*words)
    assert done.returncode == 0, done.stderr
    assert "topology entry 1" in done.stderr
    assert "100 %" in done.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["quantization_config"]["formats"]["model.layers.1.mlp.up_proj.weight"] == "Q8_0"
    again = narthex(*words)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_quantize_lists_the_formats(narthex, tmp_path):
    failed = narthex("quantize", "m", str(tmp_path / "out"), "--quantize", "q7_k")
    assert failed.returncode == 2
    assert "is none of q8_0, q6_k, q5_k" in failed.stderr
    assert narthex("quantize", "m", str(tmp_path / "out")).returncode == 2


def test_the_documented_options_of_mcp_are_those_that_it_has(narthex):
    section = (Path(__file__).parents[3] / "docs" / "cli.md").read_text("utf-8").split("## `narthex mcp`\n")[1]
    table = [line.split(" | ")[0] for line in section.split("\n## ")[0].splitlines() if line.startswith("| `--")]
    usage = narthex("mcp", "--help-me").stderr.split("narthex mcp: error")[0]
    flags = r"--[a-z][a-z-]+"
    assert set(re.findall(flags, " ".join(table))) == set(re.findall(flags, usage)) - {"--config"}
    assert set(re.findall(flags, " ".join(table))) <= set(re.findall(flags, narthex("mcp", "--help").stdout))


def test_serve_says_where_an_option_of_the_bridge_belongs(narthex):
    free = {f"NARTHEX_{name}": "127.0.0.1:0" for name in ("GRPC", "HTTP", "METRICS")}
    failed = narthex("serve", "--no-openai", **free)
    assert failed.returncode == 2 and "--no-openai went to the server; options of the bridge" in failed.stderr


def test_help_keeps_the_case_of_names(narthex):
    assert "Speak MCP on" in narthex("mcp", "--help").stdout
