"""MCP Inspector's command line against the bridge."""

import json
import os
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

PROGRAM = Path(__file__).parents[3] / "node_modules" / ".bin" / "mcp-inspector"
LIMIT_S = 60
TRANSPORTS = {"http": "/mcp", "sse": "/sse"}


@pytest.fixture(params=TRANSPORTS)
def inspected(request, bridges, node, tmp_path):
    """What a method gives, as the Inspector prints it."""
    assert PROGRAM.exists(), f"{PROGRAM} is missing: run `npm install` first (.ci/run does)"
    environ = os.environ | {
        "PATH": os.pathsep.join([str(Path(node).parent), os.environ["PATH"]]),
        "MCP_CATALOG_PATH": str(tmp_path / "catalog.json"),
    }
    target = [bridges("") + TRANSPORTS[request.param], "--transport", request.param]

    def inspect(method: str, *arguments: str) -> dict:
        command = [str(PROGRAM), "--cli", *target, "--method", method, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, env=environ)
        assert done.returncode == 0, done.stderr + done.stdout
        return json.loads(done.stdout)

    return inspect


def test_it_lists_and_calls_tools(inspected):
    assert "test_custom_headers" in [tool["name"] for tool in inspected("tools/list")["tools"]]
    called = inspected("tools/call", "--tool-name", "test_custom_headers", "--tool-arg", "region=north")
    assert called["content"] == [{"type": "text", "text": "region=north"}]


def test_it_lists_and_reads_resources(inspected):
    assert "test://static-text" in [resource["uri"] for resource in inspected("resources/list")["resources"]]
    templates = inspected("resources/templates/list")["resourceTemplates"]
    assert "test://template/{id}/data" in [template["uriTemplate"] for template in templates]
    read = inspected("resources/read", "--uri", "test://static-text")
    assert read["contents"][0]["text"] == "This is the content of the static text resource."


def test_it_lists_and_gets_prompts(inspected):
    assert "test_prompt_with_arguments" in [prompt["name"] for prompt in inspected("prompts/list")["prompts"]]
    wanted = ("--prompt-name", "test_prompt_with_arguments", "--prompt-args", "arg1=one", "arg2=two")
    message = inspected("prompts/get", *wanted)["messages"][0]
    assert message["content"]["text"] == "Prompt with arguments: arg1='one', arg2='two'"
