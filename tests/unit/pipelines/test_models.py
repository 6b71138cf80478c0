from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.embedding.head import Head, Pooling
from narthex_server.errors import FailedPrecondition, InvalidRequest, NotFound
from narthex_server.pipelines.models import EmbedModel, Kind, Models, TextModel

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]


async def test_an_empty_name_is_the_only_or_the_default_model(serve: Serve) -> None:
    async with serve("x") as first:
        models = Models()
        models.add(first)
        assert models.get() is first and models.default == "qwen3"
        second = replace(first, name="other")
        models.add(second)
        with pytest.raises(InvalidRequest, match="qwen3, other"):
            models.get()
        models.remove("other")
        assert models.get() is first and len(models) == 1
        named = Models(default="other")
        named.add(first)
        assert named.get() is first
        named.add(second)
        assert named.get() is named.find() is second and named.default == "other"
        async with named.use() as used:
            assert used is second


async def test_unknown_names_are_answered_with_those_there_are(serve: Serve) -> None:
    models = Models()
    with pytest.raises(NotFound, match="no model"):
        models.get()
    async with serve("x") as model:
        models.add(model)
        with pytest.raises(NotFound, match=r"'gpt'.*qwen3"):
            models.get("gpt")


async def test_models_of_both_kinds_have_defaults_of_their_own(serve: Serve) -> None:
    embedder = EmbedModel("vectors", EmbedderHandle(NoEncoder(), Head(Pooling.MEAN)), None, 1)
    async with serve("x") as text:
        models = Models()
        models.add(text)
        models.add(embedder)
        assert models.get() is text and models.embedder() is embedder
        assert models.is_default(text) and models.is_default(embedder)
        assert models.find("vectors") is embedder and [*models] == [text, embedder]
        assert models.of(Kind.VECTORS) == (embedder,)
        with pytest.raises(
            FailedPrecondition, match="'vectors' makes embeddings; needed is one that generates text: qwen3"
        ):
            models.get("vectors")
        with pytest.raises(
            FailedPrecondition, match="'qwen3' generates text; needed is one that makes embeddings: vectors"
        ):
            models.embedder("qwen3")
        with pytest.raises(InvalidRequest, match="qwen3, vectors"):
            models.find()
        models.remove("vectors")
        with pytest.raises(NotFound, match="no model that makes embeddings; served are: qwen3"):
            models.embedder()
        assert models.find() is text


class NoEncoder:
    """An encoder that is never asked."""

    max_len, hidden_size, alone = 1, 1, False
