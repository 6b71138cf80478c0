import asyncio

import pytest
from narthex_server.lot.shared import Shared


class Source:
    """Answers a question with how often it was asked anything, when it is let."""

    def __init__(self):
        self.asked = []
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, question):
        self.asked.append(question)
        self.reached.set()
        answer = len(self.asked)
        await self.open.wait()
        if question == "bad":
            raise ValueError(question)
        return answer


async def test_those_who_ask_at_once_share_an_answer():
    source = Source()
    shared = Shared(source)
    answers = await asyncio.gather(*(shared(question) for question in "aabba"))
    assert source.asked == ["a", "b"] and answers == [1, 1, 2, 2, 1]


async def test_who_asks_when_the_asking_has_begun_gets_an_answer_of_its_own():
    source = Source()
    shared = Shared(source)
    source.open.clear()
    first = asyncio.create_task(shared("a"))
    await source.reached.wait()
    source.reached.clear()
    second = asyncio.create_task(shared("a"))
    await source.reached.wait()
    source.open.set()
    assert [await first, await second] == [1, 2]


async def test_an_answer_that_is_good_for_a_while_is_given_for_so_long():
    source = Source()
    shared, over = Shared(source, good=0.01), asyncio.Event()
    assert [await shared("a"), await shared("a")] == [1, 1]
    asyncio.get_running_loop().call_later(0.05, over.set)
    await over.wait()
    assert await shared("a") == 2


async def test_an_error_is_everybodys_and_who_gives_up_takes_nobody_along():
    source = Source()
    shared = Shared(source)
    source.open.clear()
    one, other = (asyncio.create_task(shared("bad")) for _ in range(2))
    await source.reached.wait()
    one.cancel()
    source.open.set()
    with pytest.raises(ValueError, match="bad"):
        await other
    assert one.cancelled() and source.asked == ["bad"]
