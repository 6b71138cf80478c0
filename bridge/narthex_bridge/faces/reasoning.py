"""How much the model thinks, and what else its chat template is told."""

from typing import Any

import orjson
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields

_NOT_AT_ALL = ("none", "off")
_LEVELS = ("minimal", "low", "medium", "high", "xhigh", "max")


def reasoning(fields: Fields, effort: str | None) -> tuple[wire.ReasoningOptions | None, bytes]:
    """The thinking, and the template's variables as a JSON object.

    A level means that the model thinks; how much is for templates that know levels, which get it as `reasoning_effort`.
    """
    variables: dict[str, Any] = orjson.loads(fields.json("chat_template_kwargs") or b"{}")
    enabled, most = fields.flag("enable_thinking"), fields.whole("thinking_token_budget")
    if effort is not None:
        if enabled is None:
            enabled = effort not in _NOT_AT_ALL
        if effort not in _NOT_AT_ALL:
            variables.setdefault("reasoning_effort", effort)
    options = None if enabled is None and most is None else wire.ReasoningOptions(enabled=enabled, max_tokens=most)
    return options, orjson.dumps(variables) if variables else b""


def effort_of(fields: Fields, name: str) -> str | None:
    """A level, or that there is to be no thinking."""
    return fields.one_of(name, *_NOT_AT_ALL, *_LEVELS)
