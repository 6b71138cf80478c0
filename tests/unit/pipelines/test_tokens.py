from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.tokens import decode, encode, supports_tools

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]


async def test_text_goes_to_ids_and_back_without_an_engine_slot(serve: Serve) -> None:
    async with serve("x") as model:
        for text in ("Zürich", "Zürich " * 5_000):
            assert await decode(model, await encode(model, text)) == text
        with pytest.raises(InvalidRequest, match="token_ids"):
            await decode(model, [-1])


async def test_models_say_whether_they_can_use_tools(serve: Serve) -> None:
    async with serve("x") as model, serve("x", name="gemma3") as other:
        assert (supports_tools(model), supports_tools(other)) == (True, False)
