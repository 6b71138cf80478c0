"""On which terms a call waits."""

import asyncio

import pytest
from narthex.v1 import common_pb2 as common
from narthex_server.errors import InvalidRequest, PermissionDenied
from narthex_server.lot.terms import TERMS, Priority, Terms
from narthex_server.principal import CALLER, LOCAL, Principal
from narthex_server.services.call import check_options


class Call:
    """A ServicerContext."""

    def __init__(self, remaining: float | None = None, peer: str = "ipv4:127.0.0.1:5") -> None:
        self._remaining = remaining
        self._peer = peer

    def time_remaining(self) -> float | None:
        return self._remaining

    def peer(self) -> str:
        return self._peer


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (common.PRIORITY_UNSPECIFIED, Priority.NORMAL), (common.PRIORITY_BATCH, Priority.LOW),
        (common.PRIORITY_NORMAL, Priority.NORMAL), (common.PRIORITY_INTERACTIVE, Priority.HIGH),
        (common.PRIORITY_CRITICAL, Priority.CRITICAL),
    ],
)  # fmt: skip
async def test_the_priority_of_a_call_is_that_of_all_that_it_starts(asked, meant):
    check_options(common.CallOptions(priority=asked), Call())
    assert TERMS.get() == Terms(meant)
    assert await asyncio.create_task(inherited()) == Terms(meant)


async def inherited() -> Terms:
    return TERMS.get()


async def test_the_deadline_is_on_the_loops_clock_unless_the_work_outlives_the_call():
    check_options(common.CallOptions(), Call(5.0))
    assert TERMS.get().deadline == pytest.approx(asyncio.get_running_loop().time() + 5, abs=1)
    check_options(common.CallOptions(), Call(5.0), timeless=True)
    assert TERMS.get().deadline is None


async def test_a_priority_of_later_versions_is_not_guessed():
    with pytest.raises(InvalidRequest) as caught:
        check_options(common.CallOptions(priority=9), Call())
    assert caught.value.violations[0].field == "options.priority"


@pytest.mark.parametrize(
    ("caller", "peer", "allowed"),
    [
        (LOCAL, "ipv4:127.0.0.1:5", True), (LOCAL, "ipv4:10.0.0.7:5", False), (LOCAL, "", False),
        (Principal("k", "t"), "ipv4:127.0.0.1:5", False), (Principal("k", "t", admin=True), "ipv4:10.0.0.7:5", True),
    ],
)  # fmt: skip
async def test_critical_is_for_admins(caller, peer, allowed):
    CALLER.set(caller)
    options = common.CallOptions(priority=common.PRIORITY_CRITICAL)
    if allowed:
        check_options(options, Call(peer=peer))
        return
    with pytest.raises(PermissionDenied):
        check_options(options, Call(peer=peer))
