"""GenerationService where the wire is not needed to see what it does."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex_server.pipelines.models import Models, TextModel
from narthex_server.principal import REQUEST_ID
from narthex_server.services.generation import GenerationService
from narthex_server.tools.catalog import Catalog

Serve = Callable[..., AbstractAsyncContextManager[TextModel]]


class Call:
    """A call without a deadline and without metadata."""

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[()]:
        return ()


async def test_abort_before_the_engine_has_anything_ends_every_answer(serve: Serve) -> None:
    async with serve("fine", max_len=16_384) as model:
        models = Models()
        models.add(model)
        service = GenerationService(models, Catalog())
        REQUEST_ID.set("r")
        asked = wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text="lorem ipsum " * 1_000)])
        chat = asyncio.create_task(service.Chat(wire.ChatRequest(spec=wire.ChatSpec(messages=[asked], n=3)), Call()))
        await asyncio.sleep(0)  # it tokenizes, in a thread
        assert (await service.Abort(wire.AbortRequest(request_ids=["r"]), Call())).aborted_request_ids == ["r"]
        reply = await chat
    ended = [reply.finished, *(further.finished for further in reply.further_completions)]
    assert [end.finish_reason for end in ended] == [common.FINISH_REASON_CANCELLED] * 3
