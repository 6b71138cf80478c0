"""Failures in OpenAI's words, with the statuses that make the client raise the right exception."""

import httpx
import openai
import pytest
from narthex.keys import new_key
from narthex_bridge.config.arguments import from_arguments

HELLO = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("code", "reason", "raised", "told"),
    [
        ("INVALID_ARGUMENT", "INVALID_REQUEST", openai.BadRequestError, ("invalid_request_error", "invalid_request")),
        ("FAILED_PRECONDITION", "WRONG", openai.BadRequestError, ("invalid_request_error", "wrong")),
        ("PERMISSION_DENIED", "NO", openai.PermissionDeniedError, ("permission_error", "no")),
        ("NOT_FOUND", "TOOL_NOT_FOUND", openai.NotFoundError, ("invalid_request_error", "tool_not_found")),
        ("RESOURCE_EXHAUSTED", "QUEUE", openai.RateLimitError, ("rate_limit_error", "rate_limit_exceeded")),
        ("INTERNAL", "INTERNAL", openai.InternalServerError, ("server_error", "internal")),
        ("UNIMPLEMENTED", "NOT_YET", openai.InternalServerError, ("server_error", "not_yet")),
        ("UNAVAILABLE", "DRAINING", openai.InternalServerError, ("server_error", "draining")),
        ("DEADLINE_EXCEEDED", "LATE", openai.InternalServerError, ("server_error", "late")),
        ("UNAUTHENTICATED", "NO_KEY", openai.InternalServerError, ("server_error", "no_key")),
    ],
)
async def test_a_status_of_the_server_is_an_exception_of_the_client(
    client, models, fault, codes, code, reason, raised, told
):
    models.fault = fault(getattr(codes, code), reason, "Because.", ("sampling.top_k",))
    with pytest.raises(raised) as caught:
        await client.chat.completions.create(model="m", messages=HELLO)
    assert (caught.value.type, caught.value.code) == told
    assert caught.value.body["message"] == "Because." and caught.value.param == "top_k"


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ("sampling.dry.base", "dry_base"), ("constraint.json_schema", "response_format"), ("inputs", "input"),
        ("stopping.stop", "stop"), ("response.logprobs", "top_logprobs"), ("messages[1].role", "messages[1].role"),
    ],
)  # fmt: skip
async def test_fields_have_their_names_of_this_face(post, models, fault, codes, field, param):
    models.fault = fault(codes.INVALID_ARGUMENT, "INVALID_REQUEST", "Because.", (field,))
    answer = await post("chat/completions", messages=HELLO)
    assert answer.json()["error"]["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"x"', b'{"a": NaN}', b"\xff"])
async def test_a_body_that_is_no_object_is_refused(bridge, body):
    answer = await bridge.http.post("/v1/chat/completions", content=body)
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


async def test_keys_origins_and_sizes_are_refused_in_the_same_shape(start_bridge, models, tmp_path):
    secret, key = new_key("ada", "acme")
    (tmp_path / "keys.toml").write_text(key.toml)
    async with start_bridge(api_key_file=tmp_path / "keys.toml", max_body_bytes=1024) as bridge:
        for given in ("wrong", secret):
            async with openai.AsyncOpenAI(base_url=f"{bridge.url}/v1", api_key=given, max_retries=0) as client:
                if given == "wrong":
                    with pytest.raises(openai.AuthenticationError) as caught:
                        await client.models.list()
                    assert caught.value.code == "invalid_api_key"
                    continue
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.embeddings.create(model="m", input="x" * 2000)
                assert caught.value.status_code == 413 and caught.value.code == "body_too_large"
        answer = await bridge.http.get("/v1/models", headers={"origin": "https://evil.example"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (403, "permission_error")
        assert (await bridge.http.post("/mcp", json={}, headers={"origin": "https://evil.example"})).json()["jsonrpc"]


async def test_unknown_paths_and_methods_are_refused_in_the_same_shape(bridge):
    missing, wrong = await bridge.http.get("/v1/nothing"), await bridge.http.delete("/v1/models")
    refused = {"message": "Not Found", "type": "invalid_request_error", "param": None, "code": None}
    assert (missing.status_code, missing.json()) == (404, {"error": refused})
    assert wrong.status_code == 405 and "GET" in wrong.headers["allow"] and "error" in wrong.json()
    assert "jsonrpc" in (await bridge.http.get("/nothing")).json()
    head = await bridge.http.head("/v1/models")
    assert (head.status_code, head.headers["allow"]) == (405, "GET")


async def test_the_face_can_be_switched_off(start_bridge):
    async with start_bridge(openai=from_arguments(["--no-openai"]).openai) as bridge:
        answer: httpx.Response = await bridge.http.get("/v1/models")
        assert answer.status_code == 404
