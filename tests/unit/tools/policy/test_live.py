"""A policy that follows its file, under calls."""

import asyncio
from contextlib import suppress

import pytest
from narthex.settings import SettingsError
from narthex_server.errors import NotFound, PermissionDenied
from narthex_server.principal import LOCAL
from narthex_server.tools.catalog import Catalog
from narthex_server.tools.policy import live
from narthex_server.tools.policy.live import LivePolicy
from narthex_server.tools.policy.step import PolicyStep
from narthex_server.tools.tool import CallContext
from narthex_server.watched_file import WatchedFile

ALLOW = '[[rules]]\nname = "all"\neffect = "allow"\n'
DENY = '[[rules]]\nname = "none"\neffect = "deny"\n'


class Observer:
    def __init__(self) -> None:
        self.reloads: asyncio.Queue[bool] = asyncio.Queue()

    def on_reload(self, ok: bool) -> None:
        self.reloads.put_nowait(ok)

    def on_decision(self, *what) -> None: ...

    on_approval = on_limit = on_decision


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.setattr(live, "SETTLED", 0.001)
    path = tmp_path / "policy.toml"
    path.write_text(ALLOW)
    return path


@pytest.fixture
async def running(file, echo):
    """A catalog under the policy of the file, the policy, and what is observed."""
    observer = Observer()
    policy = LivePolicy(WatchedFile(file, interval=0.001), observer)
    catalog = Catalog([echo("echo")], steps=[PolicyStep(policy, observer)], visibility=policy, companions=[policy])
    await catalog.start()
    yield catalog, policy, observer
    await catalog.stop()


async def allowed(catalog) -> bool:
    try:
        return [event async for event in catalog.call("echo", b"{}", CallContext(LOCAL, "test"))] != []
    except (NotFound, PermissionDenied):
        return False


def replaced(file, content: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(content)
    new.replace(file)


async def test_newer_rules_are_in_force_and_the_lists_are_told_of(running, file):
    catalog, _, observer = running
    version = catalog.versions(LOCAL).catalog
    assert await allowed(catalog)
    replaced(file, DENY)
    async with asyncio.timeout(10):
        assert await observer.reloads.get()
        assert await catalog.wait_changed(LOCAL, version) > version
    assert not await allowed(catalog) and catalog.list(LOCAL) == ()


async def test_a_broken_file_keeps_the_rules_and_says_so(running, file, caplog):
    catalog, policy, observer = running
    before = policy.policy
    for broken in ("[[rules", '[[rules]]\nname = "x"\neffect = "maybe"', "\x00"):
        replaced(file, broken)
        async with asyncio.timeout(10):
            assert await observer.reloads.get() is False
        assert policy.policy is before and await allowed(catalog)
        assert "stay in force" in caplog.text
    file.unlink()
    replaced(file, DENY)
    async with asyncio.timeout(10):
        assert await observer.reloads.get()
    assert not await allowed(catalog)


async def test_calls_go_on_while_rules_change(running, file):
    catalog, _, observer = running
    results = []

    async def caller() -> None:
        while True:
            results.append(await allowed(catalog))
            await asyncio.sleep(0)

    callers = [asyncio.create_task(caller()) for _ in range(4)]
    try:
        async with asyncio.timeout(20):
            for number in range(10):
                replaced(file, (DENY if number % 2 else ALLOW) + f"# {number}\n")
                assert await observer.reloads.get()
    finally:
        for task in callers:
            task.cancel()
        for task in callers:
            with suppress(asyncio.CancelledError):
                await task
    assert {True, False} == set(results)


class HalfWritten(WatchedFile):
    """Is looked at once in the middle of a write."""

    contents = (ALLOW.encode(), (ALLOW + 'tools = ["only"]').encode())

    def __init__(self, path) -> None:
        super().__init__(path)
        self.looks = iter(self.contents)

    async def changed(self) -> bytes:
        if (content := next(self.looks, None)) is None:
            await asyncio.Event().wait()
        return content


async def test_a_file_that_is_being_written_does_not_count(file):
    observer = Observer()
    file.write_bytes(HalfWritten.contents[-1])
    policy = LivePolicy(HalfWritten(file), observer)
    policies = []
    following = asyncio.create_task(policy.follow(lambda: policies.append(policy.policy)))
    async with asyncio.timeout(10):
        assert await observer.reloads.get()
    following.cancel()
    assert observer.reloads.empty()
    [only] = policies
    assert [name for name, _ in only.rules[0].tests] == ["kind", "tools"]


def test_at_the_start_a_broken_or_missing_file_is_an_error(file):
    for content in ("[[rules", "rules = 1"):
        file.write_text(content)
        with pytest.raises(SettingsError, match=r"policy\.toml"):
            LivePolicy(WatchedFile(file), Observer())
    file.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        LivePolicy(WatchedFile(file), Observer())
