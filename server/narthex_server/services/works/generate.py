"""Prompts to continue."""

import secrets
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import cast

from narthex.v1 import generation_pb2 as wire
from narthex.v1 import lot_pb2 as lot

from narthex_server.pipelines import serving
from narthex_server.pipelines.models import Models
from narthex_server.pipelines.request import nth
from narthex_server.principal import REQUEST_ID
from narthex_server.services import requests
from narthex_server.services.generation import GenerationService
from narthex_server.services.relay import Context

SEED_BITS = 63


class GenerateWork:
    """As GenerateStream."""

    name = "generate"

    def __init__(self, service: GenerationService, models: Models) -> None:
        self._service = service
        self._models = models

    def request(self, work: lot.Work) -> wire.GenerateStreamRequest:
        return wire.GenerateStreamRequest(spec=work.generate)

    def parse(self, data: bytes) -> wire.GenerateStreamRequest:
        return wire.GenerateStreamRequest.FromString(data)

    def content(self, request: wire.GenerateStreamRequest) -> Sequence[bytes]:
        return (request.spec.SerializeToString(deterministic=True),)

    def settle(self, request: wire.GenerateStreamRequest) -> None:
        if not request.spec.sampling.HasField("seed"):
            request.spec.sampling.seed = secrets.randbits(SEED_BITS)

    async def check(self, request: wire.GenerateStreamRequest) -> bool:
        spec = request.spec
        asked = requests.generate_request(spec, REQUEST_ID.get())
        requests.completions(spec)
        await serving.generate(self._models.get(spec.model)).check(nth(asked, 0))
        return True

    def acted(self, request: wire.GenerateStreamRequest, events: Sequence[wire.GenerateStreamResponse]) -> bool:
        return False

    def run(self, request: wire.GenerateStreamRequest, context: Context) -> AsyncGenerator[wire.GenerateStreamResponse]:
        return cast(AsyncGenerator[wire.GenerateStreamResponse], self._service.GenerateStream(request, context))

    def waits(self, event: wire.GenerateStreamResponse) -> bool:
        return False

    def results(self, events: Sequence[wire.GenerateStreamResponse]) -> Iterator[wire.GenerateResponse]:
        """As Generate answers."""
        reply = wire.GenerateResponse()
        made: list[wire.GenerateResponse | wire.Completion] = [reply]
        for event in events:
            while len(made) <= event.index:
                made.append(reply.further_completions.add())
            one = made[event.index]
            match event.WhichOneof("event"):
                case "started":
                    reply.request_id, reply.model = event.started.request_id, event.started.model
                    if event.started.HasField("prompt"):
                        reply.prompt.CopyFrom(event.started.prompt)
                case "text_delta":
                    one.text += event.text_delta.text
                    one.token_ids.extend(event.text_delta.token_ids)
                    one.logprobs.extend(event.text_delta.logprobs)
                case "finished":
                    one.finished.CopyFrom(event.finished)
                    one.finished.ClearField("usage")
                    usage = event.finished.usage
        reply.finished.usage.CopyFrom(usage)
        yield reply
