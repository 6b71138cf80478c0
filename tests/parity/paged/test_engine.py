"""The engine over a packed graph."""

import asyncio
from contextlib import aclosing

from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.request import EngineRequest, Sampling, Tokens
from narthex_server.runtime.paged.session import PagedDecoderSession
from narthex_server.runtime.session import Shape


async def generated(handle, name, prompt):
    request = EngineRequest(name, tuple(prompt.ids.tolist()), len(prompt.greedy), sampling=Sampling(temperature=0))
    async with aclosing(handle.generate(request)) as events:
        return [
            token for event in [event async for event in events] if isinstance(event, Tokens) for token in event.ids
        ]


async def test_requests_together_and_again_give_the_reference_tokens(reference, prompts_of):
    prompts = prompts_of("llama")[:3]
    handle = EngineHandle(PagedDecoderSession(reference("llama", "float32"), Shape(slots=3, max_len=256, threads=1)))
    handle.start()
    try:
        for round in range(2):  # the second one finds its prompts computed
            answers = await asyncio.gather(*(generated(handle, f"{prompt.name} {round}", prompt) for prompt in prompts))
            assert answers == [prompt.greedy for prompt in prompts]
    finally:
        await handle.stop(0)
