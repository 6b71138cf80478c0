"""A fuzzer for the bodies of the OpenAI and Anthropic faces: `python tests/fuzz/faces.py -max_total_time=60`."""

import json
from collections.abc import Iterator
from typing import Any

import atheris
from seeded import fuzz

with atheris.instrument_imports(include=["narthex_bridge.faces"]):
    from narthex_bridge.faces.anthropic import request
    from narthex_bridge.faces.anthropic.tools import Upstreams
    from narthex_bridge.faces.body import fields
    from narthex_bridge.faces.openai.chat import chat_order
    from narthex_bridge.faces.openai.completions import completion_order
    from narthex_bridge.faces.openai.items import conversation
    from narthex_bridge.http.refusal import Refusal

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
BODIES = (
    {
        "model": "demo", "max_tokens": 4, "temperature": 0.5, "top_p": 1, "seed": 7, "n": 2, "stop": ["a", "b"],
        "messages": [
            {"role": "system", "content": [{"type": "text", "text": "x"}]},
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "a", "content": "y"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
        ],
        "tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "f"}}, "logit_bias": {"1": -1},
        "logprobs": True, "top_logprobs": 2, "stream": True, "stream_options": {"include_usage": True},
        "dry_multiplier": 1, "adapters": ["a"], "chat_template_kwargs": {"a": 1}, "reasoning_effort": "low",
    },
    {"messages": "x", "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}},
    {"messages": "x", "structured_outputs": {"choice": ["a"]}, "grammar": {"type": "regex", "value": "a"}},
    {"model": "demo", "prompt": [[1, 2], [3]], "echo": True, "logprobs": 1, "best_of": 1, "suffix": ""},
    {
        "model": "demo", "max_tokens": 9, "system": [{"type": "text", "text": "x"}], "thinking": {"type": "disabled"},
        "messages": [
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "y"}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "tool", "name": "f"},
        "mcp_servers": [{"type": "url", "url": "narthex:time", "name": "time"}], "stop_sequences": ["a"],
    },
)  # fmt: skip
ODDITIES = (
    None,
    True,
    -1,
    2**53,
    2**64 - 1,
    1e308,
    "",
    "\0\u2028",
    [],
    {},
    [[]],
    [{}],
    {"": None},
    [None],
    ["a"] * 300,
)
UPSTREAMS = Upstreams({"time": ["time__now"]})


def confused(value: Any) -> Iterator[Any]:
    """A body with each of its parts replaced by each oddity, one at a time."""
    yield from ODDITIES
    if isinstance(value, dict):
        for name, part in value.items():
            yield {other: each for other, each in value.items() if other != name}
            yield from (value | {name: each} for each in confused(part))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from ([*value[:index], each, *value[index + 1 :]] for each in confused(part))


def check(body: bytes) -> None:
    """Anything but a Refusal is a fault."""
    for read in (
        chat_order,
        completion_order,
        conversation,
        lambda found: request.read(found, UPSTREAMS),
        request.count,
    ):
        try:
            read(fields(body))
        except Refusal:
            continue


if __name__ == "__main__":
    for body in BODIES:
        for other in confused(body):
            check(json.dumps(other).encode())
    fuzz(check, (json.dumps(body).encode() for body in BODIES))
