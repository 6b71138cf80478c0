"""How work is to be treated, as HTTP clients say it."""

import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import embedding_pb2, generation_pb2

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9}
BODIES = {
    "chat/completions": CHAT, "completions": {"model": "m", "prompt": "Hello"},
    "embeddings": {"model": "m", "input": "Hello"}, "responses": {"model": "m", "input": "Hello"}, "messages": CHAT,
}  # fmt: skip


@pytest.fixture
def post(bridge, models, said):
    """Sends the body of a path below /v1 with headers and more members."""

    async def send(path, headers, **more):
        models.events = [said.started(), said.finished()]
        chat, text = generation_pb2.ChatResponse(), generation_pb2.GenerateResponse()
        models.reply = {"completions": text, "embeddings": embedding_pb2.EmbedResponse()}.get(path, chat)
        if more.get("stream") and path == "completions":
            finished = generation_pb2.GenerateStreamResponse(finished=common.Finished())
            models.events = [generation_pb2.GenerateStreamResponse(started={"model": "m"}), finished]
        return await bridge.http.post(f"/v1/{path}", json=BODIES[path] | more, headers=headers)

    return send


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_key_and_a_priority_reach_the_server(post, models, path, stream):
    streaming = {"stream": True} if stream and path != "embeddings" else {}
    answer = await post(path, {"Idempotency-Key": "k-1", "X-Narthex-Priority": "HIGH"}, **streaming)
    assert answer.status_code == 200, answer.text
    (asked,) = models.asked
    assert asked.options == common.CallOptions(priority=common.PRIORITY_INTERACTIVE, idempotency_key="k-1")


@pytest.mark.parametrize("path", BODIES)
async def test_ordinary_calls_ask_for_nothing(post, models, path):
    await post(path, {"X-Stainless-Retry-Count": "1"})
    assert models.asked[0].options == common.CallOptions()


@pytest.mark.parametrize(
    ("headers", "tier", "priority"),
    [
        ({}, "flex", common.PRIORITY_BATCH),
        ({}, "priority", common.PRIORITY_INTERACTIVE),
        ({}, "auto", common.PRIORITY_UNSPECIFIED),
        ({}, 7, common.PRIORITY_UNSPECIFIED),
        ({"x-narthex-priority": "critical"}, "flex", common.PRIORITY_CRITICAL),
        ({"x-narthex-priority": "low"}, None, common.PRIORITY_BATCH),
    ],
)
async def test_the_header_goes_before_the_tier(post, models, headers, tier, priority):
    await post("chat/completions", headers, service_tier=tier)
    assert models.asked[0].options.priority == priority


@pytest.mark.parametrize("headers", [{"x-narthex-priority": "urgent"}, {"idempotency-key": "k" * 121}])
@pytest.mark.parametrize("path", BODIES)
async def test_what_means_nothing_is_refused(post, models, path, headers):
    answer = await post(path, headers)
    assert answer.status_code == 400 and next(iter(headers)) in answer.text and not models.asked


async def test_each_of_several_prompts_has_a_key_of_its_own(post, models):
    await post("completions", {"idempotency-key": "k"}, prompt=["a", "b"])
    assert sorted(asked.options.idempotency_key for asked in models.asked) == ["k-0", "k-1"]
