"""How long a page is followed."""

import asyncio

import pytest
from narthex_bridge.caller import LOCAL, Caller
from narthex_bridge.ui.boards import Boards


def taking(*snapshots):
    """Gives one after the other, then the last again."""
    left = list(snapshots)

    async def take():
        return left.pop(0) if len(left) > 1 else left[0]

    return lambda caller: take


async def test_a_view_ends_after_its_time_for_the_page_to_show_its_key_again():
    view = Boards(taking(b"{}"), keepalive_s=10, lifetime_s=0.05).open(LOCAL)
    pieces = [piece async for piece in view]
    await view.aclose()
    assert b"event: status" in pieces[0] and pieces[1:] == [b": keepalive\n\n"]


async def test_the_last_to_leave_ends_the_work_and_closing_twice_counts_once():
    boards = Boards(taking(b"{}"), keepalive_s=10)
    first, second = boards.open(LOCAL), boards.open(LOCAL)
    other = boards.open(Caller("bob", "t2"))
    assert len(boards) == 2
    await first.aclose()
    await first.aclose()
    assert len(boards) == 2
    await second.aclose()
    assert len(boards) == 1
    await other.aclose()
    assert len(boards) == 0


async def test_a_fault_ends_the_views_and_the_next_page_begins_anew(caplog):
    async def broken():
        raise ValueError("a mistake of ours")

    boards = Boards(lambda caller: broken, keepalive_s=10)
    view = boards.open(LOCAL)
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(anext(view), 5)
    assert "nothing to show" in caplog.text
    again = boards.open(LOCAL)
    await view.aclose()
    assert len(boards) == 1
    await again.aclose()
    assert len(boards) == 0
