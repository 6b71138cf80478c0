"""How the engine follows a grammar."""

import asyncio

import numpy as np
import pytest
from narthex_server.engine.decoder import Logits
from narthex_server.engine.request import EngineRequest, FinishReason, Sampling
from narthex_server.errors import InvalidRequest


class Countdown:
    """Allows 9, 8, 7 … and then, where it can only be complete, the end; or fails."""

    def __init__(self, end: int, failing_at: int = -1) -> None:
        self.next, self.end, self.failing_at = 9, end, failing_at

    def mask(self, logits: Logits) -> None:
        if self.next == self.failing_at:
            raise InvalidRequest("the constraint is too complex", reason="CONSTRAINT_TOO_COMPLEX")
        kept = self.next if self.next > 5 else self.end
        value = logits[kept]
        logits.fill(-np.inf)
        logits[kept] = value

    def accept(self, token: int) -> None:
        assert token in (self.next, self.end)
        self.next -= 1


def request(name: str, grammar: Countdown | None, **options: int) -> EngineRequest:
    sampling = Sampling(temperature=2.0, seed=1)
    return EngineRequest(name, (1, 2, 3), options.get("most", 20), frozenset({40}), sampling, grammar=grammar)


async def test_only_what_the_grammar_allows_is_drawn_and_its_end_ends_the_request(running, decoder, collect) -> None:
    async with running(decoder) as handle:
        ids, end = await collect(handle, request("a", Countdown(40)))
        assert (ids, end.reason, end.stop_id) == ((9, 8, 7, 6), FinishReason.STOP, 40)
        ids, end = await collect(handle, request("b", Countdown(40), most=2))
        assert (ids, end.reason) == ((9, 8), FinishReason.LENGTH)


async def test_a_grammar_that_fails_ends_its_own_request_with_its_own_error(running, decoder, collect) -> None:
    async with running(decoder) as handle:
        failing = collect(handle, request("a", Countdown(40, failing_at=7)))
        (ids, _), error = await asyncio.gather(
            collect(handle, request("b", Countdown(40))), asyncio.ensure_future(failing), return_exceptions=True
        )
        assert ids == (9, 8, 7, 6)
        assert isinstance(error, InvalidRequest) and error.reason == "CONSTRAINT_TOO_COMPLEX"
        with pytest.raises(InvalidRequest, match="too complex"):
            await collect(handle, request("c", Countdown(40, failing_at=9)))
        assert (await collect(handle, request("d", Countdown(40))))[0] == (9, 8, 7, 6)
