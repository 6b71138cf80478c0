"""Sessions in memory and in a file behave alike."""

import asyncio
import sqlite3
import stat
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex_server.agent.sessions.memory import MemorySessions
from narthex_server.agent.sessions.session import dumped, loaded, unfinished
from narthex_server.agent.sessions.sessions import SessionLimits, Sessions
from narthex_server.agent.sessions.sqlite import SqliteSessions
from narthex_server.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from narthex_server.principal import Principal
from narthex_server.text.messages import Message, ToolCall

ANN, BOB, EVE = Principal("ann", "t"), Principal("bob", "t"), Principal("ann", "u")
HELLO = (Message("user", "Hello."), Message("assistant", "Hi."))
CALLED = Message("assistant", "", (ToolCall("1", "t", "{}"), ToolCall("2", "t", "{}")))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "file"])
def store(request, tmp_path, clock):
    if request.param == "memory":
        return MemorySessions(60, clock)
    return SqliteSessions(tmp_path / "kept" / "sessions.db", 60, clock)


async def made(sessions, principal=ANN, messages=HELLO):
    async with sessions.open(principal) as conversation:
        await conversation.save(messages, "demo")
    return conversation.id


async def test_a_session_goes_on_where_it_was(store, clock):
    sessions = Sessions(store, clock=clock)
    name = await made(sessions)
    async with sessions.open(ANN, name) as conversation:
        assert conversation.session.messages == HELLO and conversation.id == name
        await conversation.save((*HELLO, Message("user", "And?")), "other")
    found = await sessions.get(ANN, name)
    assert found.messages[2].content == "And?" and found.summary.model == "other" and found.summary.unfinished
    (summary,) = await sessions.list(ANN)
    assert summary == found.summary and summary.count == 3 and summary.size == len(dumped(found.messages))
    assert summary.used > summary.created


async def test_nothing_is_kept_of_a_session_that_was_not_saved(store, clock):
    sessions = Sessions(store, clock=clock)
    async with sessions.open(ANN) as conversation:
        pass
    assert not await sessions.list(ANN)
    with pytest.raises(NotFound):
        await sessions.get(ANN, conversation.id)


@pytest.mark.parametrize("other", [BOB, EVE])
async def test_sessions_of_others_do_not_exist(store, clock, other):
    sessions = Sessions(store, clock=clock)
    name = await made(sessions)
    assert len(name) >= 32 and name != await made(sessions)
    assert not await sessions.list(other)
    for attempt in (sessions.get(other, name), sessions.forget(other, name), sessions.open(other, name).__aenter__()):
        with pytest.raises(NotFound) as caught:
            await attempt
        assert caught.value.reason == "SESSION_NOT_FOUND"
    assert (await sessions.get(ANN, name)).messages == HELLO


async def test_one_run_at_a_time(store, clock):
    sessions = Sessions(store, clock=clock)
    name = await made(sessions)
    async with sessions.open(ANN, name):
        for attempt in (sessions.open(ANN, name).__aenter__(), sessions.forget(ANN, name)):
            with pytest.raises(FailedPrecondition) as caught:
                await attempt
            assert caught.value.reason == "SESSION_BUSY"
    await sessions.forget(ANN, name)
    with pytest.raises(NotFound):
        await sessions.get(ANN, name)


async def test_of_many_that_open_one_at_once_one_gets_it(store, clock):
    sessions = Sessions(store, clock=clock)
    name, free, inside = await made(sessions), asyncio.Event(), 0

    async def enter():
        nonlocal inside
        async with sessions.open(ANN, name):
            inside += 1
            await free.wait()

    entering = [asyncio.create_task(enter()) for _ in range(8)]
    async with asyncio.timeout(10):
        await asyncio.wait(entering, return_when=asyncio.FIRST_EXCEPTION)
        while sum(task.done() for task in entering) < 7:
            await asyncio.wait([task for task in entering if not task.done()], return_when=asyncio.FIRST_COMPLETED)
        free.set()
        outcomes = await asyncio.gather(*entering, return_exceptions=True)
    assert inside == 1 and sum(isinstance(one, FailedPrecondition) for one in outcomes) == 7


async def test_in_memory_those_that_were_not_used_for_longest_give_way(clock):
    sessions = Sessions(MemorySessions(60, clock, most_bytes=2 * len(dumped(HELLO))), clock=clock)
    names = [await made(sessions, principal) for principal in (ANN, BOB)]
    async with sessions.open(ANN, names[0]) as conversation:
        await conversation.save(HELLO, "demo")
    await made(sessions, EVE)
    assert (await sessions.get(ANN, names[0])).messages == HELLO
    with pytest.raises(NotFound):
        await sessions.get(BOB, names[1])
    await sessions.forget(ANN, names[0])
    await made(sessions, BOB)
    assert len(await sessions.list(EVE)) == 1, "what was forgotten takes no room"


async def test_unused_sessions_are_forgotten(store, clock):
    sessions = Sessions(store, clock=clock)
    old = await made(sessions)
    clock.now += 40
    young = await made(sessions)
    clock.now += 30
    assert [one.id for one in await sessions.list(ANN)] == [young]
    with pytest.raises(NotFound):
        await sessions.get(ANN, old)


async def test_limits_have_names(store, clock):
    sessions = Sessions(store, SessionLimits(count=2, bytes=300, messages=4, total_bytes=600), clock)

    async def reason(attempt):
        with pytest.raises(ResourceExhausted) as caught:
            await attempt.__aenter__()
        return caught.value.reason

    small, large = await made(sessions), await made(sessions, messages=(Message("user", "x" * 400),))
    assert await reason(sessions.open(ANN)) == "SESSION_COUNT"
    assert await reason(sessions.open(ANN, large)) == "SESSION_SIZE"
    async with sessions.open(ANN, small) as conversation:
        await conversation.save(HELLO * 3, "demo")
    assert await reason(sessions.open(ANN, small)) == "SESSION_SIZE"
    await sessions.forget(ANN, small)
    await made(sessions, messages=(Message("user", "y" * 200),))
    other = next(one.id for one in await sessions.list(ANN) if one.id != large)
    assert await reason(sessions.open(ANN, other)) == "SESSION_QUOTA"
    await made(sessions, BOB)  # whose limits are his own


async def test_a_run_that_was_broken_off_goes_on_and_no_other(store, clock):
    sessions = Sessions(store, clock=clock)
    whole, broken = await made(sessions), await made(sessions, messages=HELLO[:1])
    async with sessions.open(ANN, broken) as conversation:
        assert conversation.continued() == HELLO[:1]
    async with sessions.open(ANN, whole) as conversation:
        with pytest.raises(FailedPrecondition) as caught:
            conversation.continued()
        assert caught.value.reason == "SESSION_COMPLETE"


async def test_a_file_outlives_its_process_and_is_private(tmp_path, clock):
    path = tmp_path / "sessions.db"
    name = await made(Sessions(SqliteSessions(path, 60, clock), clock=clock), messages=(*HELLO, CALLED))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = await Sessions(SqliteSessions(path, 60, clock), clock=clock).get(ANN, name)
    assert found.messages == (*HELLO, CALLED)


async def test_a_file_that_fails_is_told_without_what_is_in_it(tmp_path, clock):
    path = tmp_path / "sessions.db"
    path.write_text("this is no database, but something else of the user's")
    with pytest.raises(OSError, match="no file of SQLite"):
        SqliteSessions(path, 60, clock)
    path.unlink()
    sessions = Sessions(SqliteSessions(path, 60, clock), clock=clock)
    with closing(sqlite3.connect(path)) as opened:
        opened.execute("DROP TABLE sessions")
    with pytest.raises(Unavailable) as caught:
        await made(sessions)
    assert caught.value.reason == "SESSION_STORE" and "sqlite" not in caught.value.message.lower()


def answer(name):
    return Message("tool", "x", tool_call_id=name)


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ((), False), (HELLO, False), (HELLO[:1], True), ((Message("system", "x"),), False), ((CALLED,), False),
        ((CALLED, answer("1")), False), ((CALLED, answer("2"), answer("1")), True),
        ((CALLED, answer("1"), answer("2"), Message("assistant", "done")), False),
        ((CALLED, answer("1"), answer("2"), Message("user", "and?")), True),
    ],
)  # fmt: skip
def test_a_conversation_is_unfinished_where_the_model_is_to_speak(messages, expected):
    assert unfinished(messages) is expected


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), st.text(), st.text(), st.text())))
def test_messages_survive_being_stored(facts):
    messages = tuple(
        Message(role, a, (ToolCall(b, c, a),) if role == "assistant" else (), b, c, a) for role, a, b, c in facts
    )
    assert loaded(dumped(messages)) == messages


def test_text_that_json_cannot_hold_is_replaced():
    assert loaded(dumped((Message("user", "a\ud800b"),)))[0].content == "a?b"
