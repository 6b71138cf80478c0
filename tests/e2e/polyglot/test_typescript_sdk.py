import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.polyglot

SESSION = str(Path(__file__).with_name("session.mjs"))


@pytest.mark.parametrize(("kind", "path"), [("http", "/mcp"), ("sse", "/sse")])
async def test_the_official_client_lists_and_calls_native_and_forwarded_tools(stack, node, program, kind, path):
    seen = json.loads(await program(node, SESSION, kind, f"http://{stack.http}{path}"))
    assert {"chat", "generate", "count_tokens", "list_models"} <= set(seen["tools"])
    assert {"filesystem__read_text_file", "everything__echo"} <= set(seen["tools"])
    answer = seen["chat"]["content"][0]["text"]
    assert answer
    assert len(seen["deltas"]) > 1
    # over SSE this client forgets whom progress is for when the result comes in the same chunk, before it tells of it
    heard = "".join(seen["deltas"])
    assert heard == answer if kind == "http" else answer.startswith(heard)
    assert "through the bridge" in seen["echo"]["content"][0]["text"]
    assert seen["steps"] == sorted(seen["steps"])
    assert seen["steps"]
    assert not seen["long"].get("isError")
    assert seen["wrong"]["isError"]
    assert "a" in seen["wrong"]["content"][0]["text"]
