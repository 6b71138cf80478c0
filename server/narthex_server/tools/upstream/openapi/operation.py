"""Operations of an API, each as a tool."""

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, cast

from narthex_server.errors import Unavailable
from narthex_server.tools.tool import Tool
from narthex_server.tools.upstream.convert import dump
from narthex_server.tools.upstream.openapi.document import Document, methods_of
from narthex_server.tools.upstream.openapi.schemas import Schemas

MOST_OPERATIONS = 5000

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


def operations(
    document: Document, upstream: str, include: tuple[str, ...], exclude: tuple[str, ...]
) -> tuple[Operation, ...]:
    """Those that fit a pattern of `include`, if there are any, and none of `exclude`; in the document's order.

    One whose body cannot be made from JSON is left out. Raises Unavailable for references that lead nowhere.
    """
    found: dict[str, Operation] = {}
    left_out = []
    for method, path, operation, shared in _all(document):
        name = _name(method, path, operation)
        if not _wanted((str(operation.get("operationId", "")), f"{method} {path}"), include, exclude):
            continue
        if len(found) >= MOST_OPERATIONS:
            raise Unavailable(f"its OpenAPI document has more than {MOST_OPERATIONS} operations; say which to include")
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name}_{number}"
        made = _operation(document, own, method, path, operation, shared)
        if made is None:
            left_out.append(f"{method} {path}")
        else:
            found[own] = made
    if left_out:
        _log.warning("upstream %s: %d operations want a body that is neither JSON nor a form, such as %s",
                     upstream, len(left_out), left_out[0])  # fmt: skip
    return tuple(found.values())


def _all(document: Document) -> Iterator[tuple[str, str, Mapping[str, Any], list[Any]]]:
    for path, given in (document.root.get("paths") or {}).items():
        if not str(path).startswith("/"):
            continue
        item = document.resolved(given)
        for method, operation in methods_of(item):
            if method != "TRACE":  # which sends back what it was sent, tokens and all
                yield method, path, operation, item.get("parameters") or []


def _operation(
    document: Document, name: str, method: str, path: str, operation: Mapping[str, Any], shared: list[Any]
) -> Operation | None:
    schemas = Schemas(document)
    properties: dict[str, Any] = {}
    required: list[str] = []
    parameters: list[Parameter] = []
    body: Body | None = None
    for stated in _parameters(document, [*shared, *(operation.get("parameters") or [])]):
        argument = stated["name"] if stated["name"] not in properties else f"{stated['name']}_{stated['in']}"
        made, schema = _parameter(document, stated, argument, schemas)
        parameters.append(made)
        properties[argument] = schema
        if stated.get("required") is True or stated["in"] == "path":
            required.append(argument)
    if (wanted := document.resolved(operation.get("requestBody"))) is not None:
        found = _body(wanted, "body" if "body" not in properties else "request_body")
        if found is not None:
            body, media = found
            properties[body.argument] = _described(schemas.alone(media.get("schema") or {}), wanted)
            if wanted.get("required") is True:
                required.append(body.argument)
        elif wanted.get("required") is True:
            return None
    return Operation(
        tool=Tool(
            name=name,
            title=str(operation.get("summary") or ""),
            description=_description(method, path, operation),
            input_schema=dump(_object(properties, required, schemas)),
            output_schema=_output(document, operation),
            annotations=_annotations(method),
        ),
        method=method,
        path=path,
        parameters=tuple(parameters),
        body=body,
    )


def _parameters(document: Document, stated: list[Any]) -> list[Mapping[str, Any]]:
    """An operation's own ones in place of those of its path."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for one in map(document.resolved, stated):
        if one["in"] != "header" or one["name"].lower() not in _NOT_HEADERS:
            found[one["in"], one["name"]] = one
    return list(found.values())


def _parameter(
    document: Document, stated: Mapping[str, Any], argument: str, schemas: Schemas
) -> tuple[Parameter, dict[str, Any]]:
    place = cast(Place, stated["in"])
    content = stated.get("content")
    schema = (next(iter(content.values())) if content else stated).get("schema")
    style = str(stated.get("style") or _STYLES[place])
    explode = stated.get("explode")
    parameter = Parameter(
        argument,
        stated["name"],
        place,
        style,
        explode if isinstance(explode, bool) else style in ("form", "deepObject"),
        as_json=bool(content),
    )
    return parameter, _described(schemas.alone(schema or {}), stated)


def _body(stated: Mapping[str, Any], argument: str) -> tuple[Body, Mapping[str, Any]] | None:
    """How the body is best sent, and what is said of it; None where that is neither JSON nor a form."""
    content: Mapping[str, Mapping[str, Any]] = stated.get("content") or {}
    for fits in (_is_json, lambda kind: _bare(kind) == FORM, lambda kind: _bare(kind) == MULTIPART, _is_anything):
        for kind, media in content.items():
            if fits(kind):
                encodings = media.get("encoding") or {}
                as_json = frozenset(n for n, e in encodings.items() if _is_json(str(e.get("contentType", ""))))
                return Body(argument, JSON if _is_anything(kind) else kind, as_json), media
    return None


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


def _output(document: Document, operation: Mapping[str, Any]) -> bytes:
    """The schema of the first good answer, where that is a JSON object: MCP has no other structured content."""
    responses = operation.get("responses") or {}
    for status in sorted(map(str, responses)):
        if not status.startswith("2"):
            continue
        content = (document.resolved(responses.get(status) or responses.get(int(status))) or {}).get("content") or {}
        for kind, media in content.items():
            if not _is_json(kind):
                continue
            schemas = Schemas(document)
            alone = schemas.alone(media.get("schema") or {})
            if _is_object(document, media.get("schema") or {}):
                whole = {"type": "object", **alone} if "$ref" not in alone else {"type": "object", "allOf": [alone]}
                return dump({**whole, "$defs": schemas.definitions} if schemas.definitions else whole)
        return b""
    return b""


def _is_object(document: Document, schema: Any) -> bool:
    found = document.resolved(schema)
    return isinstance(found, Mapping) and (found.get("type") == "object" or "properties" in found)


def _name(method: str, path: str, operation: Mapping[str, Any]) -> str:
    plain = str(operation.get("operationId") or f"{method.lower()}_{path}")
    return re.sub(r"[^A-Za-z0-9-]+", "_", plain).strip("_") or method.lower()


def _description(method: str, path: str, operation: Mapping[str, Any]) -> str:
    said = [str(operation[key]).strip() for key in ("summary", "description") if operation.get(key)]
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


def _wanted(names: tuple[str, str], include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    def fits(patterns: tuple[str, ...]) -> bool:
        return any(fnmatchcase(name, pattern) for name in names if name for pattern in patterns)

    return (not include or fits(include)) and not fits(exclude)
