"""narthex, through the engine's handle in this process; without drafts, since random weights repeat themselves."""

import asyncio
import itertools
import os
import time
from contextlib import aclosing
from pathlib import Path

from narthex.cli.environment import server_environment
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, Sampling, Tokens
from narthex_server.loading import LoadOptions, load

from bench.peers.workers.worker import Prompts, arguments, serve, start_afresh


class Narthex:
    def __init__(self, path: Path, options: LoadOptions) -> None:
        self._loop = asyncio.Runner()
        self._handle = EngineHandle(load(path, options).session, EngineOptions(speculate=False))
        self._loop.run(self._start())
        self._numbers = itertools.count()

    def generate(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        if tokens > 1:  # what decodes is to begin together, and not as one prompt after the other is computed
            self._loop.run(self._all(prompts, 1))
        return self._loop.run(self._all(prompts, tokens))

    async def _start(self) -> None:
        self._handle.start()

    async def _all(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        return await asyncio.gather(*(self._one(tuple(prompt), tokens) for prompt in prompts))

    async def _one(self, prompt: tuple[int, ...], tokens: int) -> list[float]:
        times: list[float] = []
        request = EngineRequest(str(next(self._numbers)), prompt, tokens, sampling=Sampling(temperature=0))
        async with aclosing(self._handle.generate(request)) as events:
            async for event in events:
                if isinstance(event, Tokens):
                    times += [time.perf_counter()] * len(event.ids)
        return times


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--compute", default="auto")
    parser.add_argument("--kv", default="float32")
    args = parser.parse_args()
    environ = server_environment(os.environ)
    if environ != dict(os.environ):  # as the command line starts the server
        os.environ.update(environ)
        start_afresh()
    options = LoadOptions(args.compute, args.threads, args.slots, args.size, kv=args.kv)
    serve(lambda: Narthex(args.model, options))


if __name__ == "__main__":
    main()
