"""What an upstream answers about resources and prompts, as ours; nothing that it says is lost.

Each function takes a result of MCP as it came, and raises KeyError, TypeError or ValueError for what is not one.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

from narthex_server.tools.completion import MOST, Completion
from narthex_server.tools.prompt import FilledPrompt, Prompt, PromptArgument, PromptMessage
from narthex_server.tools.resource import Contents, Part, Resource, ResourceTemplate
from narthex_server.tools.upstream.convert import convert_meta, dump

Raw = Mapping[str, Any]


def resource(raw: Raw) -> Resource:
    return Resource(
        uri=raw["uri"],
        name=raw["name"],
        title=_text(raw, "title"),
        description=_text(raw, "description"),
        mime_type=_text(raw, "mimeType"),
        size=_count(raw, "size", bits=64),
        annotations=_json(raw, "annotations"),
        icons=_json(raw, "icons"),
        meta=convert_meta(raw.get("_meta")),
    )


def template(raw: Raw) -> ResourceTemplate:
    return ResourceTemplate(
        uri_template=raw["uriTemplate"],
        name=raw["name"],
        title=_text(raw, "title"),
        description=_text(raw, "description"),
        mime_type=_text(raw, "mimeType"),
        annotations=_json(raw, "annotations"),
        icons=_json(raw, "icons"),
        meta=convert_meta(raw.get("_meta")),
    )


def prompt(raw: Raw) -> Prompt:
    return Prompt(
        name=raw["name"],
        title=_text(raw, "title"),
        description=_text(raw, "description"),
        arguments=tuple(
            PromptArgument(one["name"], _text(one, "title"), _text(one, "description"), one.get("required") is True)
            for one in raw.get("arguments") or ()
        ),
        icons=_json(raw, "icons"),
        meta=convert_meta(raw.get("_meta")),
    )


def contents(raw: Raw) -> Contents:
    return Contents(
        tuple(map(_part, raw["contents"])), convert_meta(raw.get("_meta")), _count(raw, "ttlMs", bits=64) or 0
    )


def filled(raw: Raw) -> FilledPrompt:
    messages = tuple(PromptMessage(one["role"], dump(one["content"])) for one in raw["messages"])
    return FilledPrompt(messages, _text(raw, "description"), convert_meta(raw.get("_meta")))


def completion(raw: Raw) -> Completion:
    found = raw["completion"]
    values = tuple(found["values"])
    more = found.get("hasMore") is True or len(values) > MOST
    return Completion(values[:MOST], _count(found, "total", bits=32), more)


def _part(raw: Raw) -> Part:
    content: str | bytes = raw["text"] if "text" in raw else b64decode(raw["blob"], validate=True)
    return Part(raw["uri"], content, _text(raw, "mimeType"), convert_meta(raw.get("_meta")))


def _text(raw: Raw, key: str) -> str:
    value = raw.get(key)
    return value if isinstance(value, str) else ""


def _json(raw: Raw, key: str) -> bytes:
    value = raw.get(key)
    return b"" if value is None else dump(value)


def _count(raw: Raw, key: str, bits: int) -> int | None:
    value = raw.get(key)
    if isinstance(value, float) and value.is_integer():  # JSON has one kind of number
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << bits else None
