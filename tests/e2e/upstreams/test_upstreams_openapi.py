"""An HTTP API as an upstream: a real one, with a document of its own."""

import asyncio
import json

import pytest
import yaml
from narthex_server.errors import DeadlineExceeded, InvalidToolArguments, Unauthenticated, Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.server import ServerState, ServerStatus
from narthex_server.tools.tool import CallContext, ToolResult
from narthex_server.tools.upstream.openapi.server import OpenApiServer
from narthex_server.tools.upstream.source import OpenApi, ServerSource
from quart import Quart, Response, redirect, request

from tests.e2e.upstreams.guarded import Guarded, served

DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Pets", "version": "1"},
    "servers": [{"url": "/v1"}],
    "paths": {
        "/pets/{id}": {
            "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}],
            "get": {
                "operationId": "getPet",
                "summary": "A pet",
                "parameters": [
                    {"name": "fields", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}},
                    {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                    {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                ],
                "responses": {
                    "200": {
                        "description": "found",
                        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}},
                    }
                },
            },
            "delete": {"responses": {"204": {"description": "gone"}}},
        },
        "/pets": {
            "post": {
                "operationId": "addPet",
                "requestBody": {"$ref": "#/components/requestBodies/Pet"},
                "responses": {"201": {"description": "made"}},
            }
        },
        "/login": {
            "post": {
                "operationId": "login",
                "requestBody": {
                    "required": True,
                    "content": {"application/x-www-form-urlencoded": {"schema": {"type": "object"}}},
                },
                "responses": {"200": {"description": "in"}},
            }
        },
        "/upload": {
            "post": {
                "operationId": "upload",
                "requestBody": {"content": {"multipart/form-data": {"schema": {"type": "object"}}}},
                "responses": {"200": {"description": "up"}},
            },
            "put": {
                "operationId": "raw",
                "requestBody": {"required": True, "content": {"application/octet-stream": {}}},
                "responses": {"200": {"description": "up"}},
            },
        },
        "/{kind}": {
            "get": {
                "operationId": "special",
                "parameters": [{"name": "kind", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": {"description": "whatever"}},
            }
        },
    },
    "components": {
        "requestBodies": {
            "Pet": {
                "required": True,
                "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}},
            }
        },
        "schemas": {
            "Pet": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": {"type": "string"}, "parent": {"$ref": "#/components/schemas/Pet"}},
            }
        },
    },
}


class Api:
    """The API; what it was asked is kept."""

    def __init__(self) -> None:
        self.asked: list = []
        self.described_to: list = []
        self.document = DOCUMENT
        self.app = Quart(__name__)
        self.app.json.sort_keys = False  # the order of a document is that of its tools
        self.app.add_url_rule("/openapi.json", view_func=self.described)
        self.app.add_url_rule("/v1/pets/<path:id>", view_func=self.pet, methods=["GET", "DELETE"])
        self.app.add_url_rule("/v1/pets", view_func=self.add, methods=["POST"])
        self.app.add_url_rule("/v1/login", view_func=self.form, methods=["POST"])
        self.app.add_url_rule("/v1/upload", view_func=self.form, methods=["POST"], endpoint="upload")
        self.app.add_url_rule("/v1/<kind>", view_func=self.special)

    async def described(self):
        self.described_to.append(dict(request.headers))
        return self.document

    async def pet(self, id):
        self.asked.append((request.method, request.full_path, dict(request.headers)))
        if request.method == "DELETE":
            return "", 204
        return {"name": id}

    async def add(self):
        self.asked.append(await request.get_json())
        return {"name": "made"}, 201

    async def form(self):
        form = await request.form
        self.asked.append((request.content_type.partition(";")[0], form.to_dict(flat=False)))
        return "in"

    async def special(self, kind):
        self.asked.append(dict(request.headers))
        match kind:
            case "missing":
                return Response("x" * 10_000, 404, content_type="text/plain")
            case "large":
                return Response(b"y" * (9 << 20), content_type="text/plain")
            case "picture":
                return Response(b"\x89PNG", content_type="image/png", headers={"Set-Cookie": "mine=1; Path=/"})
            case "here":
                return redirect("/v1/pets/moved")
            case "away":
                return redirect("http://localhost:1/steal")
            case "slow":
                await asyncio.sleep(30)
        return Response("echo " + request.headers.get("Authorization", ""), 500, content_type="text/plain")


@pytest.fixture
async def api():
    made = Api()
    async with served(made.app) as port:
        made.url = f"http://127.0.0.1:{port}"
        yield made


def entry(api: Api, **more: object) -> dict:
    return {"api": {"type": "openapi", "document": f"{api.url}/openapi.json", **more}}


def said(events) -> tuple[str, bool]:
    (result,) = events
    assert isinstance(result, ToolResult)
    return json.loads(result.content)[0].get("text", ""), result.is_error


async def test_operations_are_tools(api, gateway):
    async with gateway(entry(api)) as running:
        assert running.status("api").state is ServerState.READY and running.status("api").transport == "openapi"
        tools = {tool.name: tool for tool in running.catalog.list(LOCAL)}
        assert list(tools) == [
            "api__getPet", "api__delete_pets_id", "api__addPet", "api__login", "api__upload", "api__special",
        ]  # fmt: skip
        schema = json.loads(tools["api__addPet"].input_schema)
        assert schema["required"] == ["body"] and schema["properties"]["body"]["$ref"] == "#/$defs/Pet"
        assert schema["$defs"]["Pet"]["properties"]["parent"] == {"$ref": "#/$defs/Pet"}
        assert "Authorization" not in json.loads(tools["api__getPet"].input_schema)["properties"]
        assert json.loads(tools["api__getPet"].annotations)["readOnlyHint"] is True
        deleting = json.loads(tools["api__delete_pets_id"].annotations)
        assert deleting["destructiveHint"] is True and deleting["idempotentHint"] is True
        arguments = {"id": "a/../b c", "fields": ["x", "y&z"], "X-Trace": "t1"}
        (pet,) = await running.call("api__getPet", json.dumps(arguments).encode())
        assert json.loads(pet.structured_content) == {"name": "a/../b c"} and not pet.is_error
        _, path, headers = api.asked[-1]
        assert path == "/v1/pets/a/../b c?fields=x&fields=y%26z" and headers["X-Trace"] == "t1"
        assert (await running.call("api__delete_pets_id", b'{"id":"7"}'))[0].is_error is False
        await running.call("api__addPet", b'{"body":{"name":"Rex","parent":{"name":"Old"}}}')
        assert api.asked[-1] == {"name": "Rex", "parent": {"name": "Old"}}
        await running.call("api__login", '{"body":{"user":"Zoë & co","tags":["a","b"]}}'.encode())
        assert api.asked[-1] == ("application/x-www-form-urlencoded", {"user": ["Zoë & co"], "tags": ["a", "b"]})
        await running.call("api__upload", b'{"body":{"note":"hi","meta":{"a":1}}}')
        assert api.asked[-1] == ("multipart/form-data", {"note": ["hi"], "meta": ['{"a": 1}']})


async def test_arguments_that_fit_no_request_are_refused_before(api, gateway):
    async with gateway(entry(api)) as running:
        for name, arguments in (
            ("api__addPet", {"body": {"name": "x", "parent": {"name": 3}}}),
            ("api__getPet", {"id": ".."}),
            ("api__getPet", {"id": ""}),
            ("api__getPet", {"id": "1", "X-Trace": "a\r\nHost: evil"}),
            ("api__getPet", {"id": "1", "surprise": True}),
        ):
            with pytest.raises(InvalidToolArguments):
                await running.call(name, json.dumps(arguments).encode())
        assert api.asked == []


async def test_failures_say_what_the_api_says_and_no_secret(api, gateway):
    headers = {"Authorization": "Bearer token-of-ours"}
    async with gateway(entry(api, url=f"{api.url}/v1", headers=headers), call_timeout=1) as running:
        text, failed = said(await running.call("api__special", b'{"kind":"missing"}'))
        assert failed and text.startswith("HTTP 404") and "(cut; 10000 bytes)" in text and len(text) < 5000
        text, failed = said(await running.call("api__special", b'{"kind":"echoes"}'))
        assert failed and "HTTP 500" in text and "echo ***" in text and "token-of-ours" not in text
        text, failed = said(await running.call("api__special", b'{"kind":"large"}'))
        assert failed and "more than 8388608 bytes" in text
        text, failed = said(await running.call("api__special", b'{"kind":"away"}'))
        assert failed and "redirect to http://localhost:1/steal" in text
        text, failed = said(await running.call("api__special", b'{"kind":"here"}'))
        assert not failed and json.loads(text) == {"name": "moved"}
        with pytest.raises(DeadlineExceeded):
            await running.call("api__special", b'{"kind":"slow"}')


async def test_a_cookie_of_one_call_does_not_go_with_the_next(api, gateway):
    async with gateway(entry(api)) as running:
        (picture,) = await running.call("api__special", b'{"kind":"picture"}')
        assert json.loads(picture.content) == [{"type": "image", "data": "iVBORw==", "mimeType": "image/png"}]
        await running.call("api__special", b'{"kind":"picture"}')
        assert "Cookie" not in api.asked[-1]


async def test_only_what_is_included_and_not_excluded(api, gateway):
    chosen = entry(api, operations={"include": ["*Pet", "DELETE *"], "exclude": ["add*"]})
    async with gateway(chosen) as running:
        assert running.names() == ["api__getPet", "api__delete_pets_id"]


async def test_a_file_is_read_again_when_it_changes(api, gateway, tmp_path):
    path = tmp_path / "pets.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT))
    async with gateway({"api": {"type": "openapi", "document": str(path), "url": f"{api.url}/v1"}}) as running:
        assert "api__getPet" in running.names()
        other = {**DOCUMENT, "paths": {"/pets": DOCUMENT["paths"]["/pets"]}}
        path.write_text(yaml.safe_dump(other))
        await running.until(lambda: running.names() == ["api__addPet"])


async def test_a_change_that_breaks_a_file_does_not_break_the_tools(api, tmp_path):
    path = tmp_path / "pets.json"
    path.write_text(json.dumps(DOCUMENT))
    transport = OpenApi(str(path), f"{api.url}/v1")
    server = OpenApiServer(ServerSource("api", transport), transport)
    told: asyncio.Queue[ServerStatus] = asyncio.Queue()
    server.start(lambda: told.put_nowait(server.status))
    try:
        async with asyncio.timeout(20):
            assert [(await told.get()).state for _ in range(2)] == [ServerState.STARTING, ServerState.READY]
            path.write_text("{")
            status = await told.get()
            assert status.state is ServerState.READY and status.reason.startswith(
                "keeps the operations it has: its Open"
            )
            context = CallContext(LOCAL, "request")
            [result] = [event async for event in server.call("addPet", {"body": {"name": "Rex"}}, context)]
            assert isinstance(result, ToolResult) and not result.is_error and api.asked == [{"name": "Rex"}]
            path.write_text(json.dumps({**DOCUMENT, "paths": {}}))
            assert (await told.get()).reason == "" and server.tools == ()
    finally:
        await server.stop()


async def test_a_document_elsewhere_is_asked_for_without_what_is_for_the_api(api, gateway):
    """The API's own origin is shown the key for its document too."""
    secret = {"X-Key": "key-of-ours"}
    elsewhere = {"type": "openapi", "document": f"{api.url}/openapi.json", "headers": secret}
    async with gateway({"far": {**elsewhere, "url": "http://localhost:1"}, "near": {**elsewhere, "url": api.url}}):
        assert sorted(headers.get("X-Key", "") for headers in api.described_to) == ["", "key-of-ours"]


async def test_a_document_that_is_not_there(api, gateway):
    source = {"type": "openapi", "document": f"{api.url}/nowhere.json"}
    nobody = {"type": "openapi", "document": "http://localhost:1/openapi.json"}
    async with gateway(
        {"gone": source, "nobody": nobody, "file": {"type": "openapi", "document": "/no/api"}}
    ) as running:
        assert "HTTP 404" in running.status("gone").reason
        assert "ConnectError" in running.status("nobody").reason
        assert "No such file" in running.status("file").reason


async def test_an_api_that_is_away_is_told_by_its_calls(api, gateway):
    async with gateway(entry(api, url="http://localhost:1")) as running:
        assert running.status("api").state is ServerState.READY
        with pytest.raises(Unavailable) as caught:
            await running.call("api__getPet", b'{"id":"1"}')
        assert "ConnectError" in caught.value.message


def changed(old: str, new: str) -> str:
    """A document that would be served from a file, but for this."""
    whole = json.dumps({**DOCUMENT, "servers": [{"url": "http://localhost/v1"}]})
    assert old in whole
    return whole.replace(old, new)


HOSTILE = {
    "neither JSON nor YAML": "{",
    "is no object": "[]",
    "Swagger 2.0": '{"swagger":"2.0"}',
    "of no version": "a: 1",
    "OpenAPI 4.0.0": '{"openapi":"4.0.0"}',
    "not valid at info.version: Field required": '{"openapi":"3.1.0","info":{"title":"x"},"paths":{}}',
    "give url": json.dumps(DOCUMENT),
    "#/components/schemas/Cat, which is not there": changed("#/components/schemas/Pet", "#/components/schemas/Cat"),
    "bundle it into one": changed("#/components/schemas/Pet", "http://evil/x"),
    "lead in a circle": changed(
        '"requestBodies": {', '"requestBodies": {"L": {"$ref": "#/components/requestBodies/L"}, '
    ).replace('{"$ref": "#/components/requestBodies/Pet"}', '{"$ref": "#/components/requestBodies/L"}'),
    "which is no RequestBody": changed("#/components/requestBodies/Pet", "#/info"),
    "exceeded maximum nesting depth": "a: " + "[" * 100_000,
    "200 levels": "a: " + "[" * 500 + "]" * 500,
    "more than 1000000 values": "a0: &a0 [x]\n"
    + "".join(f"a{n}: &a{n} [{f'*a{n - 1},' * 10}]\n" for n in range(1, 12)),
    "16777216 characters": "a: &a " + "x" * 1_000_000 + "\nb: [" + "*a," * 1000 + "]",
    "merge keys": "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1},' * 10}]}}\n" for n in range(1, 12)),
    "values that JSON does not have": "a: !!binary aGVsbG8=",
    "more than 16777216 bytes": " " * (16 << 20) + "{}",
    "bytes of schemas": changed("A pet", "x" * 8_000_000).replace(
        '"/login":', "".join(f'"/copy{n}": {{"$ref": "#/paths/~1pets~1{{id}}"}}, ' for n in range(9)) + '"/login":'
    ),
}


@pytest.mark.parametrize("problem", HOSTILE)
async def test_what_is_wrong_with_a_document_is_told(gateway, tmp_path, problem):
    (tmp_path / "api.yaml").write_text(HOSTILE[problem])
    async with gateway({"api": {"type": "openapi", "document": str(tmp_path / "api.yaml")}}) as running:
        status = running.status("api")
        assert status.state is ServerState.UNHEALTHY and problem in status.reason, status
        with pytest.raises(Unavailable):
            await running.call("api__getPet")


async def test_callers_bring_tokens_of_their_own(gateway, tmp_path):
    app = Guarded()
    app.accepted = {"token-of-ada"}
    document = {
        **DOCUMENT,
        "paths": {"/mcp": {"get": {"operationId": "look", "responses": {"200": {"description": ""}}}}},
    }
    (tmp_path / "api.json").write_text(json.dumps(document))
    async with served(app) as port:
        app.page = b"no"
        far = {"type": "openapi", "document": str(tmp_path / "api.json"), "url": f"http://127.0.0.1:{port}"}
        async with gateway({"far": {**far, "auth": {"type": "passthrough"}}}) as running:
            for tokens in ({}, {"far": "token-of-eve"}):
                context = CallContext(LOCAL, "request", upstream_tokens=tokens)
                with pytest.raises(Unauthenticated):
                    [event async for event in running.catalog.call("far__look", b"{}", context)]
            context = CallContext(LOCAL, "request", upstream_tokens={"far": "token-of-ada"})
            [event async for event in running.catalog.call("far__look", b"{}", context)]
            assert app.seen == ["token-of-eve", "token-of-ada"]
