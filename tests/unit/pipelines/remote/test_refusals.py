import json

import pytest
from narthex_server.errors import (
    ContextOverflow,
    FailedPrecondition,
    InvalidRequest,
    ResourceExhausted,
    Unavailable,
)
from narthex_server.pipelines.remote.refusals import LONGEST_TEXT, Refusals

SECRET = "sk-very-secret"
REFUSALS = Refusals("big", SECRET)


@pytest.mark.parametrize(
    ("status", "kind", "reason"),
    [
        (400, InvalidRequest, "REMOTE_INVALID"), (422, InvalidRequest, "REMOTE_INVALID"),
        (401, FailedPrecondition, "REMOTE_REFUSED"), (403, FailedPrecondition, "REMOTE_REFUSED"),
        (404, FailedPrecondition, "REMOTE_NOT_FOUND"), (501, FailedPrecondition, "REMOTE_NOT_FOUND"),
        (302, FailedPrecondition, "REMOTE_NOT_FOUND"), (408, Unavailable, "REMOTE_UNAVAILABLE"),
        (429, ResourceExhausted, "REMOTE_BUSY"), (500, Unavailable, "REMOTE_UNAVAILABLE"),
        (503, Unavailable, "REMOTE_UNAVAILABLE"), (999, Unavailable, "REMOTE_UNAVAILABLE"),
    ],
)  # fmt: skip
def test_whose_fault_it_is(status, kind, reason):
    error = REFUSALS.status(status, b'{"error": {"message": "because"}}')
    assert type(error) is kind and error.reason == reason and "'big'" in error.message
    assert ("because" in error.message) == (status not in (302, 401, 403))


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "because"}}', b'{"error": "because"}', b'{"message": "because"}',
        b'{"detail": "because"}', b'{"detail": [{"msg": "because"}]}', b"because", b'"because"',
        b'{"error": {"message": "be\\u2028\\u0007cause"}}',
    ],
)  # fmt: skip
def test_the_reason_is_found_in_every_dialect(body):
    assert "because" in REFUSALS.status(400, body).message.replace("be cause", "because")


@pytest.mark.parametrize("body", [b"<html>proxy</html>", b"\xff\xfe", b"", b"null", b"[]", b'{"error": {}}'])
def test_what_says_nothing_is_no_reason(body):
    assert REFUSALS.status(400, body).message.startswith("the remote engine of model 'big' refuses the request")


def test_secrets_and_novels_stay_out():
    for status in (400, 401, 404, 429, 500):
        text = REFUSALS.status(status, json.dumps({"error": f"key {SECRET} " + "x" * 10_000}).encode()).message
        assert SECRET not in text and len(text) < LONGEST_TEXT + 200
    assert SECRET not in repr(REFUSALS)


def test_a_prompt_that_is_too_long_is_told_as_here():
    for text in ("This model's maximum context length is 8 tokens", "exceeds the available context size"):
        assert isinstance(REFUSALS.status(400, json.dumps({"error": text}).encode()), ContextOverflow)
    error = {"message": "the prompt has 9 tokens, and 8 fit", "code": "context_length_exceeded"}
    assert isinstance(REFUSALS.status(400, json.dumps({"error": error}).encode()), ContextOverflow)
    assert not isinstance(REFUSALS.status(400, b'{"error": {"message": "no", "code": null}}'), ContextOverflow)
