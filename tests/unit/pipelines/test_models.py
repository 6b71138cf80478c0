from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

import pytest
from narthex_server.errors import InvalidRequest, NotFound
from narthex_server.pipelines.models import Models, TextModel

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
        models.add(second, default=True)
        assert models.get() is second
        assert models.remove("other") is second and models.get() is first and len(models) == 1


async def test_unknown_names_are_answered_with_those_there_are(serve: Serve) -> None:
    models = Models()
    with pytest.raises(NotFound, match="no model"):
        models.get()
    async with serve("x") as model:
        models.add(model)
        with pytest.raises(NotFound, match=r"'gpt'.*qwen3"):
            models.get("gpt")
