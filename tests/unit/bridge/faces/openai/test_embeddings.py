"""POST /v1/embeddings."""

import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import embedding_pb2 as wire

REPLY = wire.EmbedResponse(
    request_id="r1", model="m", usage=common.Usage(prompt_tokens=5),
    embeddings=[wire.Embedding(values=[0.5, -0.25], tokens=2), wire.Embedding(values=[1.0, 0.0], tokens=3)],
)  # fmt: skip


@pytest.mark.parametrize("encoding", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
async def test_vectors_come_in_both_encodings(client, models, encoding):
    models.reply = REPLY
    made = await client.embeddings.create(model="m", input=["a", "b"], dimensions=2, **encoding)
    if encoding.get("encoding_format") == "base64":  # asked for by name, the client leaves it as it is
        assert made.data[0].embedding == "AAAAPwAAgL4="
    else:
        assert [one.embedding for one in made.data] == [[0.5, -0.25], [1.0, 0.0]]
    assert [one.index for one in made.data] == [0, 1] and made.usage.total_tokens == 5
    assert [one.text for one in models.spec.inputs] == ["a", "b"] and models.spec.dimensions == 2


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", [wire.EmbedInput(text="a")]),
        ([1, 2], [wire.EmbedInput(token_ids=common.TokenIds(ids=[1, 2]))]),
        ([[1], [2, 3]], [wire.EmbedInput(token_ids=common.TokenIds(ids=ids)) for ids in ([1], [2, 3])]),
    ],
)
async def test_inputs_are_texts_or_tokens(post, models, given, expected):
    models.reply = REPLY
    assert (await post("embeddings", input=given, truncate_sequence=True)).status_code == 200
    assert list(models.spec.inputs) == expected and models.spec.truncate


@pytest.mark.parametrize("given", [None, 7, [["a"]], [1, "a"], [-1], {"a": 1}])
async def test_other_inputs_are_refused(post, models, given):
    answer = await post("embeddings", input=given)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input") and not models.asked
