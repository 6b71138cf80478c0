"""From operations and arguments to requests, and from a document's schemas to those of tools."""

import json
from typing import Any

import pytest
from narthex_server.errors import InvalidToolArguments, Unavailable
from narthex_server.tools.upstream.openapi import yaml_as_json
from narthex_server.tools.upstream.openapi.answer import result_of
from narthex_server.tools.upstream.openapi.document import Document
from narthex_server.tools.upstream.openapi.operation import Choice, Operation, operations
from narthex_server.tools.upstream.openapi.request import request_of

COLORS, COLOR = ["blue", "black"], {"R": 100, "G": 200}


def document(operation: dict[str, Any], path: str = "/a", version: str = "3.1.0", **more: Any) -> Document:
    paths = {path: {"post": {"responses": {"200": {"description": ""}}, **operation}}}
    info = {"title": "t", "version": "1"}
    return Document.parse(json.dumps({"openapi": version, "info": info, "paths": paths, **more}).encode())


def the(operation: dict[str, Any], path: str = "/a", version: str = "3.1.0", **more: Any) -> Operation:
    (found,) = operations(document(operation, path, version, **more), "api", Choice())
    return found


def schema_of(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(operation.tool.input_schema)
    return found


def parameter(place: str, value: object, **more: Any) -> str:
    stated = {"name": "color", "in": place, "required": place == "path", "schema": {}, **more}
    request = request_of(the({"parameters": [stated]}, "/{color}" if place == "path" else "/a"), {"color": value})
    return request.headers.get("color", "") + request.headers.get("Cookie", "") or request.target


# the table of styles in the specification, 4.8.12.4
@pytest.mark.parametrize(
    ("place", "style", "explode", "text", "array", "object"),
    [
        ("path", "simple", False, "/blue", "/blue,black", "/R,100,G,200"),
        ("path", "simple", True, "/blue", "/blue,black", "/R=100,G=200"),
        ("path", "label", False, "/.blue", "/.blue,black", "/.R,100,G,200"),
        ("path", "label", True, "/.blue", "/.blue.black", "/.R=100.G=200"),
        ("path", "matrix", False, "/;color=blue", "/;color=blue,black", "/;color=R,100,G,200"),
        ("path", "matrix", True, "/;color=blue", "/;color=blue;color=black", "/;R=100;G=200"),
        ("query", "form", False, "/a?color=blue", "/a?color=blue,black", "/a?color=R,100,G,200"),
        ("query", "form", True, "/a?color=blue", "/a?color=blue&color=black", "/a?R=100&G=200"),
        ("query", "spaceDelimited", False, None, "/a?color=blue%20black", "/a?color=R%20100%20G%20200"),
        ("query", "pipeDelimited", False, None, "/a?color=blue%7Cblack", "/a?color=R%7C100%7CG%7C200"),
        ("query", "deepObject", True, None, None, "/a?color%5BR%5D=100&color%5BG%5D=200"),
        ("header", "simple", False, "blue", "blue,black", "R,100,G,200"),
        ("header", "simple", True, "blue", "blue,black", "R=100,G=200"),
        ("cookie", "form", False, "color=blue", "color=blue,black", "color=R,100,G,200"),
    ],
)
def test_styles_of_parameters(place, style, explode, text, array, object):
    for value, expected in (("blue", text), (COLORS, array), (COLOR, object)):
        if expected is not None:
            assert parameter(place, value, style=style, explode=explode) == expected


def test_values_cannot_leave_their_place():
    assert parameter("path", "a/../b?c#d{x}%2e") == "/a%2F..%2Fb%3Fc%23d%7Bx%7D%252e"
    assert parameter("query", "a&b=c d+e#f") == "/a?color=a%26b%3Dc%20d%2Be%23f"
    assert parameter("cookie", "a; admin=1") == "color=a%3B%20admin%3D1"
    assert parameter("query", [True, None, 2.0, 2.5, 2**70]) == f"/a?color=true&color=&color=2&color=2.5&color={2**70}"
    for place, value in (
        ("path", ""),
        ("path", "."),
        ("path", ".."),
        ("path", []),
        ("header", "a\r\nb"),
        ("header", "é"),
    ):
        with pytest.raises(InvalidToolArguments) as caught:
            parameter(place, value)
        assert caught.value.violations[0].field == "color"
    with pytest.raises(InvalidToolArguments):
        parameter("path", ".", style="label")


def test_a_parameter_with_content_is_a_json_text():
    stated = {"name": "filter", "in": "query", "content": {"application/json": {"schema": {"type": "object"}}}}
    request = request_of(the({"parameters": [stated]}), {"filter": {"a": [1, "x"]}})
    assert request.target == "/a?filter=%7B%22a%22%3A%20%5B1%2C%20%22x%22%5D%7D"


def test_arguments_of_one_name_get_another_name():
    stated = [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}},
        {"name": "id", "in": "query", "schema": {"type": "integer"}},
        {"name": "body", "in": "query", "schema": {"type": "string"}},
    ]
    body = {
        "content": {"application/merge-patch+json": {"schema": {"type": "object"}}},
        "description": "What to change",
    }
    operation = the({"parameters": stated, "requestBody": body}, "/{id}")
    schema = schema_of(operation)
    assert list(schema["properties"]) == ["id", "id_2", "body", "body_2"] and schema["required"] == ["id"]
    assert schema["properties"]["body_2"] == {"type": "object", "description": "What to change"}
    request = request_of(operation, {"id": "a", "id_2": 1, "body": "x", "body_2": {"k": None}})
    assert (request.target, request.body) == ("/a?id=1&body=x", b'{"k":null}')
    assert request.headers["Content-Type"] == "application/merge-patch+json"


def test_forms():
    form = the({"requestBody": {"content": {"application/x-www-form-urlencoded": {}}}})
    assert request_of(form, {"body": {"a b": "c&d", "n": [1, 2]}}).body == b"a+b=c%26d&n=1&n=2"
    with pytest.raises(InvalidToolArguments):
        request_of(form, {"body": "a=b"})
    media = {"encoding": {"meta": {"contentType": "application/json"}}}
    multipart = the({"requestBody": {"content": {"multipart/form-data": media}}})
    parts = request_of(multipart, {"body": {"note": "x", "meta": "[]", "o": {"a": 1}}}).parts
    assert parts == (
        ("note", "x", "text/plain"), ("meta", "[]", "application/json"), ("o", '{"a": 1}', "application/json"),
    )  # fmt: skip


def test_schemas_of_3_0_are_those_of_2020_12():
    schema = {
        "type": "object",
        "required": ["id", "name"],
        "properties": {
            "id": {"type": "integer", "readOnly": True},
            "name": {"type": "string", "nullable": True, "enum": ["a"], "example": "a", "xml": {}},
            "age": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "exclusiveMaximum": False},
            "any": {"allOf": [{"type": "string"}], "nullable": True},
            "next": {"$ref": "#/components/schemas/A", "description": "passed over in 3.0"},
            "readOnly": {"type": "boolean"},
        },
        "discriminator": {"propertyName": "name"},
        "x-ours": 1,
    }
    body = {"required": True, "content": {"application/json": {"schema": {"$ref": "#/components/schemas/A"}}}}
    found = schema_of(the({"requestBody": body}, version="3.0.3", components={"schemas": {"A": schema}}))
    assert found == {
        "type": "object",
        "properties": {"body": {"$ref": "#/$defs/A"}},
        "required": ["body"],
        "additionalProperties": False,
        "$defs": {
            "A": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": ["string", "null"], "enum": ["a", None]},
                    "age": {"type": "number", "exclusiveMinimum": 0},
                    "any": {"anyOf": [{"allOf": [{"type": "string"}]}, {"type": "null"}]},
                    "next": {"$ref": "#/$defs/A"},
                    "readOnly": {"type": "boolean"},
                },
            }
        },
    }


def test_two_schemas_whose_references_end_alike_stay_two():
    body = {"content": {"application/json": {"schema": {"anyOf": [
        {"$ref": "#/components/schemas/A"}, {"$ref": "#/components/schemas/B/properties/A"},
    ]}}}}  # fmt: skip
    schemas = {"A": {"type": "string"}, "B": {"properties": {"A": {"type": "integer"}}}}
    found = schema_of(the({"requestBody": body}, components={"schemas": schemas}))
    assert found["$defs"] == {"A": {"type": "string"}, "A_2": {"type": "integer"}}
    assert found["properties"]["body"] == {"anyOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/A_2"}]}


def test_whatever_a_reference_leads_to_is_survived():
    for odd in (5, [], "x", None, {"required": [[]], "enum": 5, "type": "string", "nullable": True, "properties": 3}):
        body = {"content": {"application/json": {"schema": {"$ref": "#/x-odd"}}}}
        assert the({"requestBody": body}, version="3.0.3", **{"x-odd": odd}).tool.input_schema


@pytest.mark.parametrize(
    ("include", "exclude", "names"),
    [
        ((), (), ["listPets", "post_pets", "listUsers"]),
        (("tag:pets",), (), ["listPets", "post_pets"]),
        (("GET *",), ("tag:admin",), ["listPets"]),
        (("list*",), ("*Users",), ["listPets"]),
        ((), ("POST /pets",), ["listPets", "listUsers"]),
    ],
)
def test_operations_are_chosen_by_id_method_path_and_tag(include, exclude, names):
    done = {"responses": {"200": {"description": ""}}}
    paths = {
        "/pets": {"get": {"operationId": "listPets", "tags": ["pets"], **done}, "post": {"tags": ["pets"], **done}},
        "/users": {"get": {"operationId": "listUsers", "tags": ["admin"], **done}},
    }
    whole = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths}
    found = operations(Document.parse(json.dumps(whole).encode()), "api", Choice(include, exclude))
    assert [operation.tool.name for operation in found] == names


def test_names_are_those_of_functions_and_distinct():
    done = {"responses": {"200": {"description": ""}}}
    ids = ["pets.list", "pets/list", "pets list", "öß"]
    paths = {f"/{n}": {"get": {"operationId": name, **done}} for n, name in enumerate(ids)}
    whole = {"openapi": "3.1.0", "info": {"title": "t", "version": "1"}, "paths": paths}
    found = operations(Document.parse(json.dumps(whole).encode()), "api", Choice())
    assert [operation.tool.name for operation in found] == ["pets_list", "pets_list_2", "pets_list_3", "get"]


def test_a_header_that_is_configured_is_no_callers_to_set():
    stated = [{"name": name, "in": "header", "required": True, "schema": {}} for name in ("X-Key", "X-Other", "Host")]
    (found,) = operations(document({"parameters": stated}), "api", Choice(headers=frozenset({"x-key"})))
    assert list(schema_of(found)["properties"]) == ["X-Other"] and schema_of(found)["required"] == ["X-Other"]


def test_the_first_servers_variables_have_their_defaults():
    servers = [{"url": "https://{host}/{v}", "variables": {"host": {"default": "h.example"}, "v": {"default": "v2"}}}]
    assert document({}, servers=servers).base("file.json") == "https://h.example/v2"
    assert document({}, servers=[{"url": "v3"}]).base("https://h.example/docs/api.json") == "https://h.example/docs/v3"
    assert document({}).base("https://h.example/docs/api.json") == "https://h.example/"
    for far in ("https://elsewhere.example/", "http://h.example/", "//169.254.169.254/"):
        with pytest.raises(Unavailable, match="another origin"):
            document({}, servers=[{"url": far}]).base("https://h.example/docs/api.json")
    for none in ("/v1", "ftp://h.example", "https://h.example/?key=1", "https://h:x/", "https://h/{host}"):
        with pytest.raises(Unavailable, match="give url"):
            document({}, servers=[{"url": none, "variables": {"host": {"default": "x" * 3000}}}]).base("file.json")


def test_yaml_is_another_way_to_write_json():
    text = b"a: no\nb: 1:30\nc: 0777\nd: 2026-01-01\ne: 1.5e3\nf:\ng: true\nh: -2\n200: x\n"
    assert yaml_as_json.load(text) == {
        "a": "no", "b": "1:30", "c": "0777", "d": "2026-01-01", "e": 1500.0, "f": None, "g": True, "h": -2, 200: "x",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "body", "content", "structured", "failed"),
    [
        ("application/json", b'{"a":1}', {"type": "text", "text": '{"a":1}'}, b'{"a":1}', False),
        ("application/hal+json; charset=utf-8", b'{"a":1}', {"type": "text", "text": '{"a":1}'}, b'{"a":1}', False),
        ("application/json", b"[1]", {"type": "text", "text": "[1]"}, b"", False),
        ("application/json", b"{", None, b"", True),
        ("application/json", b"[" * 100_000, None, b"", True),
        ("text/csv", "é,1".encode(), {"type": "text", "text": "é,1"}, b"", False),
        ("image/png", b"\x89", {"type": "image", "data": "iQ==", "mimeType": "image/png"}, b"", False),
        ("image/svg+xml", b"<svg/>", {"type": "text", "text": "<svg/>"}, b"", False),
        ("", b"\x00", None, b"", False),
        ("text/plain", b"", {"type": "text", "text": "HTTP 200, without a body"}, b"", False),
    ],
)
def test_answers_are_content_by_their_media_type(media_type, body, content, structured, failed):
    result = result_of(200, "OK", media_type, body)
    assert result.is_error is failed and result.structured_content == structured
    if content is not None:
        assert json.loads(result.content) == [content]
