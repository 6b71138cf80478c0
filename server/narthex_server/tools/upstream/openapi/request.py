"""From the arguments of a tool to an HTTP request: styles of parameters as OpenAPI defines them, and bodies."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from narthex_server.errors import InvalidToolArguments, Violation
from narthex_server.tools.upstream.convert import dump
from narthex_server.tools.upstream.openapi.operation import FORM, MULTIPART, Body, Operation, Parameter

_SEPARATORS = {"spaceDelimited": "%20", "pipeDelimited": "%7C"}


@dataclass(frozen=True, slots=True)
class Request:
    """`target` is what follows the API's base URL; `parts` are the fields of a multipart form, else `body` is whole."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes | None = None
    parts: tuple[tuple[str, str, str], ...] = ()  # name, content, media type


def request_of(operation: Operation, arguments: Mapping[str, Any]) -> Request:
    """Raises InvalidToolArguments for a value that cannot stand where it has to."""
    path, query, headers, cookies = operation.path, [], {"Accept": "application/json, */*;q=0.5"}, []
    for parameter in operation.parameters:
        if parameter.argument not in arguments:
            continue
        value = arguments[parameter.argument]
        match parameter.place:
            case "path":
                path = path.replace("{" + parameter.name + "}", _path(parameter, value))
            case "query":
                query += [f"{name}={text}" for name, text in _query(parameter, value)]
            case "header":
                headers[parameter.name] = _header(parameter, value)
            case "cookie":
                cookies += [f"{name}={text}" for name, text in _query(parameter, value)]
    if cookies:
        headers["Cookie"] = "; ".join(cookies)
    target = quote(path, safe="/%:@!$&'()*+,;=-._~") + ("?" + "&".join(query) if query else "")
    body: bytes | None = None
    parts: tuple[tuple[str, str, str], ...] = ()
    if operation.body is not None and operation.body.argument in arguments:
        body, parts = _body(operation.body, arguments[operation.body.argument])
        if not parts:
            headers["Content-Type"] = operation.body.media_type
    return Request(operation.method, target, headers, body, parts)


def _path(parameter: Parameter, value: Any) -> str:
    between, head = (",", ""), ""
    match parameter.style:
        case "label":
            head, between = ".", ("." if parameter.explode else ",", ".")
        case "matrix":
            return _matrix(parameter, value)
    separator = between[0] if isinstance(value, list | dict) else ""
    text = head + separator.join(_flat(parameter, value, quoted=True))
    if not text.strip("."):
        raise _misfit(parameter, "cannot be empty or consist of dots, which would be another path")
    return text


def _matrix(parameter: Parameter, value: Any) -> str:
    name = quote(parameter.name, safe="")
    match value:
        case list() if parameter.explode:
            return "".join(f";{name}={_quoted(one)}" for one in value)
        case dict() if parameter.explode:
            return "".join(f";{_quoted(key)}={_quoted(one)}" for key, one in value.items())
        case _:
            return f";{name}=" + ",".join(_flat(parameter, value, quoted=True))


def _query(parameter: Parameter, value: Any) -> Iterator[tuple[str, str]]:
    name = quote(parameter.name, safe="")
    match value:
        case _ if parameter.as_json:
            yield name, quote(json.dumps(value), safe="")
        case list() if parameter.explode:
            for one in value:
                yield name, _quoted(one)
        case dict() if parameter.style == "deepObject":
            for key, one in value.items():
                yield f"{name}%5B{_quoted(key)}%5D", _quoted(one)
        case dict() if parameter.explode:
            for key, one in value.items():
                yield _quoted(key), _quoted(one)
        case _:
            yield name, _SEPARATORS.get(parameter.style, ",").join(_flat(parameter, value, quoted=True))


def _header(parameter: Parameter, value: Any) -> str:
    text = ",".join(_flat(parameter, value, quoted=False))
    if not text.isascii() or not (text.isprintable() or not text):
        raise _misfit(parameter, "must consist of printable ASCII characters, as it is sent in a header")
    return text


def _flat(parameter: Parameter, value: Any, *, quoted: bool) -> list[str]:
    """Style `simple`: the items, or names and values."""
    said = _quoted if quoted else _text
    if parameter.as_json:
        return [quote(json.dumps(value), safe="") if quoted else json.dumps(value)]
    match value:
        case list():
            return [said(one) for one in value]
        case dict() if parameter.explode:
            return [f"{said(key)}={said(one)}" for key, one in value.items()]
        case dict():
            return [said(part) for pair in value.items() for part in pair]
        case _:
            return [said(value)]


def _body(body: Body, value: Any) -> tuple[bytes | None, tuple[tuple[str, str, str], ...]]:
    kind = body.media_type.partition(";")[0].strip().lower()
    if kind not in (FORM, MULTIPART):
        return dump(value), ()
    if not isinstance(value, dict):
        violation = Violation(body.argument, "must be an object, as it is sent as a form")
        raise InvalidToolArguments(f"{violation.field} {violation.description}", violations=(violation,))
    fields = [(name, one) for name, given in value.items() for one in (given if isinstance(given, list) else [given])]
    if kind == FORM:
        return "&".join(f"{_form(name)}={_form(_text(one))}" for name, one in fields).encode(), ()
    parts = tuple(
        (name, _text(one), "application/json" if isinstance(one, dict) or name in body.json_fields else "text/plain")
        for name, one in fields
    )
    return None, parts


def _text(value: Any) -> str:
    match value:
        case str():
            return value
        case bool() | None | dict() | list():
            return json.dumps(value) if value is not None else ""
        case float() if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
        case _:
            return str(value)


def _quoted(value: Any) -> str:
    return quote(_text(value), safe="")


def _form(text: str) -> str:
    return quote(text, safe="").replace("%20", "+")


def _misfit(parameter: Parameter, description: str) -> InvalidToolArguments:
    return InvalidToolArguments(
        f"{parameter.argument} {description}", violations=(Violation(parameter.argument, description),)
    )
