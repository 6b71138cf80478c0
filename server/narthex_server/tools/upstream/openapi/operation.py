"""Operations of an API, each as a tool."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from narthex_server.errors import Unavailable
from narthex_server.tools.tool import Tool
from narthex_server.tools.upstream.convert import dump
from narthex_server.tools.upstream.openapi.document import Document, methods_of
from narthex_server.tools.upstream.openapi.schemas import Schemas

MOST_OPERATIONS = 5000
MOST_BYTES = 64 * 1024 * 1024
"""Of all tools' schemas and descriptions: each has a copy of what it refers to."""

Place = Literal["path", "query", "header", "cookie"]
_STYLES: Mapping[str, str] = {"path": "simple", "query": "form", "header": "simple", "cookie": "form"}
_NOT_HEADERS = {
    "accept", "authorization", "connection", "content-length", "content-type", "cookie", "host", "transfer-encoding",
}  # fmt: skip
"""Which a document may not describe, or HTTP itself needs."""

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parameter:
    """`argument` is what the tool calls it; `as_json` where its value is a JSON text."""

    argument: str
    name: str
    place: Place
    style: str
    explode: bool
    as_json: bool = False


@dataclass(frozen=True, slots=True)
class Body:
    argument: str
    media_type: str
    json_fields: frozenset[str] = field(default=frozenset())


@dataclass(frozen=True, slots=True)
class Operation:
    tool: Tool
    method: str
    path: str
    parameters: tuple[Parameter, ...]
    body: Body | None


@dataclass(frozen=True, slots=True)
class Choice:
    """Which operations are tools, and the headers that are sent with each and no caller's to set (in lower case).

    A pattern fits an operation's id, `METHOD /path` or `tag:NAME`.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    headers: frozenset[str] = frozenset()

    def wants(self, method: str, path: str, operation: Mapping[str, Any]) -> bool:
        """Whether a pattern of `include` fits, if there are any, and none of `exclude`."""
        names = [f"{method} {path}", *(f"tag:{tag}" for tag in operation.get("tags") or ())]
        if operation.get("operationId"):
            names.append(operation["operationId"])

        def fits(patterns: tuple[str, ...]) -> bool:
            return any(fnmatchcase(name, pattern) for pattern in patterns for name in names)

        return (not self.include or fits(self.include)) and not fits(self.exclude)


def operations(document: Document, upstream: str, choice: Choice) -> tuple[Operation, ...]:
    """The chosen ones in the document's order; one whose body cannot be made from JSON is left out.

    Raises Unavailable for references that lead nowhere, and for more operations or schemas than anybody could use.
    """
    found: dict[str, Operation] = {}
    left_out: list[str] = []
    size = 0
    for method, path, operation, shared in _all(document):
        if not choice.wants(method, path, operation):
            continue
        name = _distinct(_name(method, path, operation), found)
        made = _operation(document, choice, name, method, path, operation, shared)
        if made is None:
            left_out.append(f"{method} {path}")
            continue
        found[name] = made
        size += len(made.tool.input_schema) + len(made.tool.description)
        if len(found) > MOST_OPERATIONS or size > MOST_BYTES:
            raise Unavailable(
                f"its OpenAPI document has more than {MOST_OPERATIONS} operations, or {MOST_BYTES} bytes of schemas; "
                "say which to include",
                reason="INVALID_OPENAPI_DOCUMENT",
            )
    if left_out:
        _log.warning("upstream %s: %d operations want a body that is neither JSON nor a form, such as %s",
                     upstream, len(left_out), left_out[0])  # fmt: skip
    return tuple(found.values())


def _all(document: Document) -> Iterator[tuple[str, str, Mapping[str, Any], list[Any]]]:
    for path, given in (document.root.get("paths") or {}).items():
        if not path.startswith("/"):
            continue
        item = document.resolved(given, "PathItem")
        for method, operation in methods_of(item):
            if method != "TRACE":  # which sends back what it was sent, tokens and all
                yield method, path, operation, item.get("parameters") or []


def _distinct(name: str, taken: Mapping[str, object]) -> str:
    number, own = 1, name
    while own in taken:
        number += 1
        own = f"{name}_{number}"
    return own


def _operation(
    document: Document,
    choice: Choice,
    name: str,
    method: str,
    path: str,
    operation: Mapping[str, Any],
    shared: list[Any],
) -> Operation | None:
    wanted = document.resolved(operation.get("requestBody"), "RequestBody") or {}
    sent = _body(wanted)
    if sent is None and wanted.get("required") is True:
        return None
    schemas = Schemas(document)
    properties: dict[str, Any] = {}
    required: list[str] = []
    parameters: list[Parameter] = []
    for stated in _parameters(document, [*shared, *(operation.get("parameters") or [])], choice.headers):
        argument = _distinct(stated["name"], properties)
        made, properties[argument] = _parameter(stated, argument, schemas)
        parameters.append(made)
        if stated.get("required") is True or stated["in"] == "path":
            required.append(argument)
    body: Body | None = None
    if sent is not None:
        kind, media = sent
        body = Body(_distinct("body", properties), kind, _as_json(media))
        properties[body.argument] = _described(schemas.alone(media.get("schema") or {}), wanted)
        if wanted.get("required") is True:
            required.append(body.argument)
    tool = Tool(
        name=name,
        title=operation.get("summary") or "",
        description=_description(method, path, operation),
        input_schema=dump(_object(properties, required, schemas)),
        annotations=_annotations(method),
    )
    return Operation(tool, method, path, tuple(parameters), body)


def _parameters(document: Document, stated: list[Any], fixed: frozenset[str]) -> list[Mapping[str, Any]]:
    """An operation's own ones in place of those of its path."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for given in stated:
        one = document.resolved(given, "Parameter")
        if one["in"] != "header" or one["name"].lower() not in _NOT_HEADERS | fixed:
            found[one["in"], one["name"]] = one
    return list(found.values())


def _parameter(stated: Mapping[str, Any], argument: str, schemas: Schemas) -> tuple[Parameter, dict[str, Any]]:
    content = stated.get("content")
    schema = (next(iter(content.values())) if content else stated).get("schema")
    style = stated.get("style") or _STYLES[stated["in"]]
    explode = stated.get("explode")
    if explode is None:
        explode = style in ("form", "deepObject")
    parameter = Parameter(argument, stated["name"], stated["in"], style, explode, as_json=bool(content))
    return parameter, _described(schemas.alone(schema or {}), stated)


def _body(stated: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]] | None:
    """The media type that the body is best sent in, and what is said of it; None for all but JSON and forms."""
    content: Mapping[str, Mapping[str, Any]] = stated.get("content") or {}
    for fits in (_is_json, lambda kind: _bare(kind) == FORM, lambda kind: _bare(kind) == MULTIPART, _is_anything):
        for kind, media in content.items():
            if fits(kind):
                return JSON if _is_anything(kind) else kind, media
    return None


def _as_json(media: Mapping[str, Any]) -> frozenset[str]:
    """The fields of a form that are JSON texts."""
    encodings: Mapping[str, Mapping[str, Any]] = media.get("encoding") or {}
    return frozenset(name for name, encoding in encodings.items() if _is_json(encoding.get("contentType") or ""))


def _is_json(kind: str) -> bool:
    bare = _bare(kind)
    return bare == JSON or bare.endswith("+json")


def _is_anything(kind: str) -> bool:
    return _bare(kind) in ("*/*", "application/*")


def _bare(kind: str) -> str:
    return kind.partition(";")[0].strip().lower()


def _object(properties: Mapping[str, Any], required: list[str], schemas: Schemas) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if required:
        schema["required"] = required
    schema["additionalProperties"] = False
    if schemas.definitions:
        schema["$defs"] = schemas.definitions
    return schema


def _described(schema: Any, stated: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(schema) if isinstance(schema, Mapping) else {}
    if isinstance(said := stated.get("description"), str) and said:
        made.setdefault("description", said)
    return made


def _name(method: str, path: str, operation: Mapping[str, Any]) -> str:
    plain = operation.get("operationId") or f"{method.lower()}_{path}"
    return re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_") or method.lower()


def _description(method: str, path: str, operation: Mapping[str, Any]) -> str:
    said = [operation[key].strip() for key in ("summary", "description") if operation.get(key)]
    if operation.get("deprecated") is True:
        said.append("Deprecated.")
    return "\n\n".join(dict.fromkeys(said)) or f"{method} {path}"


def _annotations(method: str) -> bytes:
    hints: dict[str, bool] = {"openWorldHint": True}
    match method:
        case "GET" | "HEAD" | "OPTIONS":
            hints |= {"readOnlyHint": True, "idempotentHint": True}
        case "PUT" | "DELETE":
            hints |= {"readOnlyHint": False, "idempotentHint": True, "destructiveHint": True}
        case _:
            hints |= {"readOnlyHint": False}
    return dump(hints)
