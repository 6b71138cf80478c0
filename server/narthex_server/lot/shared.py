"""Questions that many ask at once."""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Q = TypeVar("Q", bound=Hashable)
A = TypeVar("A")


class Shared(Generic[Q, A]):
    """Asks once for all who want to know the same; use from one event loop.

    Who asks after the asking has begun is not given its answer, which may be of a moment before, unless answers are
    good for a while.
    """

    def __init__(self, ask: Callable[[Q], Awaitable[A]], good: float = 0.0) -> None:
        """An answer is given to those, too, who ask at most `good` seconds after it was asked for."""
        self._ask = ask
        self._good = good
        self._answers: dict[Q, asyncio.Task[A]] = {}

    async def __call__(self, question: Q) -> A:
        """Errors: those of the asking."""
        if (answer := self._answers.get(question)) is None:
            answer = self._answers[question] = asyncio.create_task(self._answer(question))
            answer.add_done_callback(_seen)
        return await asyncio.shield(answer)

    async def _answer(self, question: Q) -> A:
        # A new task begins when all have run that one piece of news has woken.
        if self._good:
            asyncio.get_running_loop().call_later(self._good, self._answers.pop, question)
        else:
            del self._answers[question]
        return await self._ask(question)


def _seen(answer: "asyncio.Task[A]") -> None:
    """All who asked may be gone when it fails."""
    if not answer.cancelled():
        answer.exception()
