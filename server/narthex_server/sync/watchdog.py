"""Sees deadlocks coming, and those that came: for debugging."""

import asyncio
import logging
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

HERE = str(Path(__file__).parent)
OWN = (HERE, threading.__file__)
"""Where nobody asks for a lock of their own accord."""

_log = logging.getLogger(__name__)


class Mark:
    """One lock, as the watchdog knows it."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


@dataclass(slots=True, eq=False)
class _Claim:
    """Somebody has a lock, or waits for it, since then."""

    mark: Mark
    who: str
    where: str
    since: float
    told: bool = False


@dataclass(frozen=True, slots=True)
class _Step:
    """At `held_at` the first lock was taken, and with it in hand the second was asked for at `asked_at`."""

    held_at: str
    asked_at: str


class Watchdog:
    """Keeps who holds what, who waits for what, and in which orders locks were ever taken.

    It reports two orders that could meet in a deadlock as soon as it has seen both, by the locks' names, even if they
    never meet; a lock that is asked for by whoever holds it; and what is held or waited for longer than `patience`
    seconds. Locks of one name may be taken within each other: the watchdog does not know their order. Each is reported
    once. A `report` that raises keeps the lock from being asked for.
    """

    def __init__(
        self,
        patience: float,
        report: Callable[[str], None] = _log.error,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._patience = patience
        self._report = report
        self._clock = clock
        self._guard = threading.Lock()
        self._held: dict[Hashable, list[_Claim]] = {}
        self._waiting: dict[Hashable, _Claim] = {}
        self._orders: dict[str, dict[str, _Step]] = {}

    def asks(self, mark: Mark) -> None:
        """Whoever runs is about to wait for the lock. Raises what `report` does."""
        who, name, where = _runs()
        news: list[str] = []
        with self._guard:
            for held in self._held.get(who, ()):
                if held.mark is mark:
                    news.append(f"{name} asks at {where} for the lock {mark.name}, which it took at {held.where}")
                elif held.mark.name != mark.name and mark.name not in self._orders.get(held.mark.name, ()):
                    self._orders.setdefault(held.mark.name, {})[mark.name] = _Step(held.where, where)
                    if circle := self._circle(mark.name, held.mark.name):
                        news.append(self._told([held.mark.name, *circle]))
        for line in news:
            self._report(line)
        with self._guard:
            self._waiting[who] = _Claim(mark, name, where, self._clock())

    def gave_up(self) -> None:
        """Whoever runs waits no more, and does not have the lock."""
        with self._guard:
            self._waiting.pop(_runs()[0], None)

    def took(self) -> None:
        """Whoever runs has the lock that it waited for."""
        who = _runs()[0]
        with self._guard:
            claim = self._waiting.pop(who)
            claim.since, claim.told = self._clock(), False
            self._held.setdefault(who, []).append(claim)

    def has(self, mark: Mark) -> None:
        """Whoever runs has the lock again, which it gave back only to wait for something else."""
        who, name, where = _runs()
        with self._guard:
            self._held.setdefault(who, []).append(_Claim(mark, name, where, self._clock()))

    def left(self, mark: Mark) -> None:
        """Whoever runs gives the lock back, as a rule the one that took it."""
        who = _runs()[0]
        with self._guard:
            for holder in (who, *self._held):
                claims = self._held.get(holder, [])
                if claim := next((claim for claim in reversed(claims) if claim.mark is mark), None):
                    claims.remove(claim)
                    if not claims:
                        del self._held[holder]
                    return

    def look(self) -> None:
        """Reports what has taken too long by now."""
        news: list[str] = []
        with self._guard:
            now = self._clock()
            held = [claim for claims in self._held.values() for claim in claims]
            for claim in self._waiting.values():
                if self._overdue(claim, now):
                    holders = [f"held {_claimed(other, now)}" for other in held if other.mark is claim.mark]
                    news.append(
                        "; ".join([f"the lock {claim.mark.name} is waited for {_claimed(claim, now)}", *holders])
                    )
            news += [
                f"the lock {one.mark.name} is held {_claimed(one, now)}" for one in held if self._overdue(one, now)
            ]
        for line in news:
            self._report(line)

    @contextmanager
    def looking(self, every: float) -> Iterator[None]:
        """Looks every so many seconds within the block, in a thread of its own."""
        over = threading.Event()

        def run() -> None:
            while not over.wait(every):
                self.look()

        thread = threading.Thread(target=run, name="narthex-lock-watchdog", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _overdue(self, claim: _Claim, now: float) -> bool:
        """Whether it is, and was not told yet."""
        if claim.told or now - claim.since < self._patience:
            return False
        claim.told = True
        return True

    def _circle(self, start: str, end: str) -> list[str]:
        """The names on a way from one lock to another, in which each was taken within the one before; else nothing."""
        ways, seen = [[start]], {start}
        while ways:
            way = ways.pop()
            if way[-1] == end:
                return way
            for name in self._orders.get(way[-1], ()):
                if name not in seen:
                    seen.add(name)
                    ways.append([*way, name])
        return []

    def _told(self, circle: list[str]) -> str:
        steps = []
        for first, second in pairwise(circle):
            step = self._orders[first][second]
            steps.append(f"{first} (taken at {step.held_at}) before {second} (asked for at {step.asked_at})")
        return f"locks are taken in orders that can deadlock: {', and '.join(steps)}"


def _claimed(claim: _Claim, now: float) -> str:
    return f"by {claim.who} for {now - claim.since:.1f} s, from {claim.where}"


def _runs() -> tuple[Hashable, str, str]:
    """The task or thread that runs, its name, and where it stands."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    code = frame.f_code
    where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_qualname}"
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is not None:
        return task, f"task {task.get_name()}", where
    return threading.get_ident(), f"thread {threading.current_thread().name}", where
