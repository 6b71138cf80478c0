"""The embed pipeline over a real encoder of a few dimensions."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
from narthex_server.embedders import load_embedder
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.embedding.head import Pooling
from narthex_server.errors import InvalidRequest
from narthex_server.loading import LoadOptions
from narthex_server.pipelines.embed import EmbedPipeline, EmbedRequest
from narthex_server.pipelines.models import EmbedModel

BERT = Path(__file__).parents[2] / "golden" / "embed_bert"
TEXTS = ("The weather is lovely today.", "It's so sunny outside!", "日本語 naïve café", "He drove to the stadium.")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def model(tmp_path_factory) -> AsyncIterator[EmbedModel]:
    loaded = load_embedder(BERT, LoadOptions(threads=1, cache_dir=tmp_path_factory.mktemp("graphs")))
    handle = EmbedderHandle(loaded.session, loaded.head)
    handle.start()
    yield EmbedModel("bert", handle, loaded.tokenizer, loaded.vocab_size)
    await handle.stop(0)


pytestmark = pytest.mark.asyncio(loop_scope="module")


async def vectors(model: EmbedModel, *inputs, **options) -> np.ndarray:
    return (await EmbedPipeline(model).run(EmbedRequest(inputs, **options))).vectors


def faults(error: pytest.ExceptionInfo) -> list[str]:
    return [violation.field for violation in error.value.violations]


async def test_a_vector_does_not_depend_on_what_else_is_in_the_batch(model):
    together = await vectors(model, *TEXTS, *(text * 3 for text in TEXTS))
    for text, vector in zip(TEXTS, together, strict=False):
        np.testing.assert_allclose(vector, (await vectors(model, text))[0], rtol=0, atol=1e-5)
    crowd = await asyncio.gather(*(vectors(model, text) for text in TEXTS * 5))
    np.testing.assert_allclose(np.concatenate(crowd[:4]), together[:4], rtol=0, atol=1e-5)


async def test_vectors_have_length_one_unless_told_otherwise(model):
    scaled, raw = await vectors(model, *TEXTS), await vectors(model, *TEXTS, normalize=False)
    np.testing.assert_allclose(np.linalg.norm(scaled, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(scaled, raw / np.linalg.norm(raw, axis=1, keepdims=True), atol=1e-6)


async def test_fewer_dimensions_are_the_first_ones_scaled_anew(model):
    whole, cut = await vectors(model, *TEXTS, normalize=False), await vectors(model, *TEXTS, dimensions=7)
    assert cut.shape == (4, 7)
    np.testing.assert_allclose(cut, whole[:, :7] / np.linalg.norm(whole[:, :7], axis=1, keepdims=True), atol=1e-6)


async def test_token_ids_are_taken_as_they_are(model):
    ids = tuple(model.tokenizer.encode(TEXTS[0]))
    np.testing.assert_allclose(await vectors(model, ids), await vectors(model, TEXTS[0]), atol=1e-6)
    made = await EmbedPipeline(model).run(EmbedRequest((ids, ids[:3], TEXTS[1])))
    assert made.tokens == (len(ids), 3, len(model.tokenizer.encode(TEXTS[1])))


async def test_an_instruction_is_put_before_every_text_and_no_ids(model):
    ids = tuple(model.tokenizer.encode(TEXTS[0]))
    told = await vectors(model, TEXTS[0], ids, instruction="query: ")
    np.testing.assert_allclose(told[0], (await vectors(model, "query: " + TEXTS[0]))[0], atol=1e-5)
    np.testing.assert_allclose(told[1], (await vectors(model, TEXTS[0]))[0], atol=1e-5)


async def test_another_pooling_is_another_vector(model):
    first, last = (
        await vectors(model, TEXTS[0], pooling=Pooling.FIRST),
        await vectors(model, TEXTS[0], pooling=Pooling.LAST),
    )
    mean = await vectors(model, TEXTS[0], pooling=Pooling.MEAN)
    np.testing.assert_array_equal(mean, await vectors(model, TEXTS[0]))
    assert np.abs(first - last).max() > 1e-3 and np.abs(first - mean).max() > 1e-3


async def test_a_text_that_is_too_long_is_refused_or_cut_before_its_last_special_token(model):
    long = "weather " * 200
    with pytest.raises(InvalidRequest, match="the model takes 128") as caught:
        await vectors(model, TEXTS[0], long, long)
    assert faults(caught) == ["inputs[1]", "inputs[2]"]
    made = await EmbedPipeline(model).run(EmbedRequest((long,), truncate=True))
    bare = model.tokenizer.encode(long, add_special=False)
    first, last = model.tokenizer.encode(long)[0], model.tokenizer.encode(long)[-1]
    assert made.tokens == (128,)
    np.testing.assert_allclose(made.vectors, await vectors(model, (first, *bare[:126], last)), atol=1e-6)
    ids = tuple(bare)
    np.testing.assert_allclose(await vectors(model, ids, truncate=True), await vectors(model, ids[:128]), atol=1e-6)


async def test_lower_casing_happens_where_the_folder_asks_for_it(model):
    cased = replace(model, lower_case=True)
    np.testing.assert_allclose(await vectors(cased, "WEATHER"), await vectors(model, "weather"), atol=1e-6)


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (EmbedRequest(()), ["inputs"]),
        (EmbedRequest(("x",) * 2049), ["inputs"]),
        (EmbedRequest(("x", "", ())), ["inputs[1]", "inputs[2]"]),
        (EmbedRequest(("x",), dimensions=65), ["dimensions"]),
        (EmbedRequest((("x"), (1, 600))), ["inputs[1].token_ids"]),
        (EmbedRequest(((-1,),), dimensions=-1), ["dimensions", "inputs[0].token_ids"]),
    ],
)
async def test_what_makes_no_sense_is_named(model, request_, fields):
    with pytest.raises(InvalidRequest) as caught:
        await EmbedPipeline(model).run(request_)
    assert faults(caught) == fields


async def test_the_most_inputs_that_are_allowed_are_embedded(model):
    assert (await vectors(model, *["x"] * 2048)).shape == (2048, 64)
