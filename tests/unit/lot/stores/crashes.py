"""Kills a server at work on one file of tickets, again and again, and looks at what is left; run as a process.

    python crashes.py FILE SEED ROUNDS

Each round forks two servers that add, take, work, cancel and sweep, and say what the store has acknowledged. They are
killed before or after one of their statements or commits, or at any time. A fact that was acknowledged has to be there
ever after, and nothing may be there twice. The last server is not killed and does what is left.
"""

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from narthex_server.lot.stores.sqlite.store import SqliteTickets
from narthex_server.lot.stores.store import Lease, LeaseLost
from narthex_server.lot.ticket import Order, Outcome, Quota, State, Webhook

LEASE = 1000.0
TENANTS = 5


class Dying(sqlite3.Connection):
    """Kills its process around the n-th statement that begins with `word`; of all connections together."""

    word = ""
    left = 0
    after = False

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        due = self._due(sql)
        if due and not Dying.after:
            die()
        done = super().execute(sql, *values)
        if due:
            die()
        return done

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if self._due(sql):
            die()
        return super().executemany(sql, *values)

    def _due(self, sql: str) -> bool:
        if Dying.left and sql.startswith(Dying.word):
            Dying.left -= 1
            return Dying.left == 0
        return False


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Server:
    """Works on tickets with many tasks at once; what the store has acknowledged goes to `told`, a line each."""

    def __init__(self, path: Path, told: int, number: int, name: str = "") -> None:
        self._store = SqliteTickets(path, Quota(), clock=lambda: time.time() + number * 2 * LEASE)
        self._told = told
        self._name = f"{number}{name}"
        self._random = random.Random(self._name)

    async def run(self, adding: int, working: int) -> None:
        """Ends when nothing is left."""
        async with asyncio.TaskGroup() as tasks:
            for task in range(adding):
                tasks.create_task(self._add(task))
            for _ in range(working):
                tasks.create_task(self._work())
        await self._store.sweep()
        await self._store.close()

    async def _add(self, task: int) -> None:
        for turn in range(3):
            name = f"{self._name}.{task}.{turn}"
            order = Order(
                id=name,
                tenant=f"t{task % TENANTS}",
                principal=b"{}",
                kind="chat",
                request=b"r" * self._random.choice([10, 10_000]),
                digest=b"d",
                submitted=time.time(),
                keep=1e9,
                key=name,
                webhook=Webhook("https://example.com"),
            )
            await self._store.add(order)
            self._tell("add", order.tenant, name)
            again, new = await self._store.add(order)
            assert not new and again.order.id == name
            if self._random.random() < 0.1:
                self._tell("cancelling", order.tenant, name)
                cancelled = await self._store.cancel(order.tenant, name)
                if cancelled is not None and cancelled.state is State.CANCELLED:
                    self._tell("cancel", order.tenant, name)

    async def _work(self) -> None:
        idle = 0
        while idle < 3:
            tickets = await self._store.take(2, LEASE)
            idle = 0 if tickets else idle + 1
            for ticket in tickets:
                tenant = ticket.order.tenant
                lease = Lease(tenant, ticket.order.id, ticket.attempt)
                self._tell("take", tenant, lease.ticket, lease.attempt)
                try:
                    await self._do(lease)
                except LeaseLost:
                    continue  # cancelled meanwhile

    async def _do(self, lease: Lease) -> None:
        for turn in range(self._random.randrange(5)):
            size = self._random.choice([1, 1, 5000])
            events = [f"{lease.attempt}.{turn}.{part}".encode().ljust(size) for part in range(2)]
            last = await self._store.append(lease, events)
            self._tell("append", lease.tenant, lease.ticket, last, [event.decode() for event in events])
        await self._store.renew([lease], LEASE)
        end = f"{lease.attempt}.end"
        ended = await self._store.finish(lease, Outcome(State.DONE), [end.encode()])
        self._tell("finish", lease.tenant, lease.ticket, ended.events, end)
        await self._store.told(lease.tenant, lease.ticket, None)

    def _tell(self, *fact: Any) -> None:
        line = json.dumps(fact).encode() + b"\n"
        while line:
            line = line[os.write(self._told, line) :]


class Witness:
    """Remembers what was acknowledged, and holds the file to it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._attempts: dict[str, int] = {}
        self._tenants: dict[str, str] = {}
        self._events: dict[str, dict[int, str]] = {}
        self._ended: set[str] = set()
        self._cancelling: set[str] = set()
        self._ends: dict[str, tuple[Any, ...]] = {}
        self.facts: Counter[str] = Counter()

    def hear(self, told: bytes) -> None:
        """A last line that was cut short says nothing."""
        for line in told.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            verb, tenant, name, *more = json.loads(line)
            self.facts[verb] += 1
            self._tenants[name] = tenant
            if verb == "take":
                assert more[0] > self._attempts.get(name, 0), f"{name} was taken twice as {more[0]}"
                self._attempts[name] = more[0]
            elif verb == "append":
                last, events = more
                for number, event in enumerate(events, last - len(events) + 1):
                    self._note(name, number, event)
            elif verb == "finish":
                self._note(name, *more)
            elif verb == "cancelling":
                self._cancelling.add(name)
            if verb in ("finish", "cancel"):
                assert name not in self._ended, f"{name} has ended twice"
                self._ended.add(name)

    def _note(self, name: str, number: int, event: str) -> None:
        assert self._events.setdefault(name, {}).setdefault(number, event) == event, f"{name} has two {number}"

    async def look(self, number: int) -> int:
        """How many tickets there are. Raises AssertionError."""
        store = SqliteTickets(self._path, Quota(), clock=lambda: time.time() + number * 2 * LEASE)
        for name, tenant in self._tenants.items():
            ticket = await store.get(tenant, name)
            if ticket is None:
                assert name in self._cancelling, f"{name} is lost"
                continue
            assert ticket.attempt >= self._attempts.get(name, 0), f"{name} has forgotten an attempt"
            assert name not in self._ended or ticket.state.over, f"the end of {name} is lost"
            kept = await store.events(tenant, name, 0, 1 << 30)
            assert len(kept) == ticket.events == len(set(kept)), f"{name} has events twice, or miscounts them"
            for place, event in self._events.get(name, {}).items():
                assert kept[place - 1].decode() == event, f"event {place} of {name} is lost"
            assert sum(event.endswith(b".end") for event in kept) == (ticket.state is State.DONE)
            if ticket.state.over:
                end = (ticket.state, ticket.ended, ticket.events)
                assert self._ends.setdefault(name, end) == end, f"{name} has ended twice"
        await store.close()
        return self._count()

    def _count(self) -> int:
        """The file agrees with itself."""
        with closing(sqlite3.connect(self._path)) as database:
            assert database.execute("pragma integrity_check").fetchall() == [("ok",)]
            counted = database.execute(
                "select tenant, count(*), sum(state < 3), sum(size), min(case when state = 0 then rank end)"
                " from tickets group by tenant order by tenant"
            ).fetchall()
            assert counted == database.execute("select * from tenants order by tenant").fetchall()
            sizes = database.execute(
                "select ref, size, events, (select length(body) from requests where requests.ref = tickets.ref),"
                " (select ifnull(sum(length(body)), 0) from events where place between ref << 32 and (ref + 1) << 32),"
                " (select count(*) from events where place between ref << 32 and (ref + 1) << 32) from tickets"
            ).fetchall()
            for ref, size, events, request, body, count in sizes:
                assert (size, events) == (request + body, count), f"ticket {ref} miscounts"
            (strays,) = database.execute(
                "select count(*) from events where place >> 32 not in (select ref from tickets)"
            ).fetchone()
            assert strays == 0
            return len(sizes)


class Victim:
    """A forked server, and how it dies."""

    def __init__(self, path: Path, number: int, name: str, rng: random.Random) -> None:
        kind = rng.choice(["statement", "commit", "insert into events", "time"])
        self._seconds = rng.uniform(0, 0.2) if kind == "time" else None
        statements, after = rng.randint(1, 600 if kind == "statement" else 30), rng.random() < 0.5
        self._heard, told = os.pipe()
        self._child = os.fork()
        if self._child == 0:
            if kind != "time":
                Dying.word, Dying.left, Dying.after = "" if kind == "statement" else kind, statements, after
                connect = sqlite3.connect
                sqlite3.connect = lambda *given, **more: connect(*given, factory=Dying, **more)
            asyncio.run(Server(path, told, number, name).run(adding=8, working=8))
            os._exit(0)
        os.close(told)

    def end(self) -> tuple[bytes, bool]:
        """What was acknowledged, and whether it was killed."""
        if self._seconds is not None:
            time.sleep(self._seconds)
            os.kill(self._child, signal.SIGKILL)
        with open(self._heard, "rb") as lines:
            said = lines.read()
        _, status = os.waitpid(self._child, 0)
        assert status == 0 or os.WIFSIGNALED(status), "the server failed by itself"
        return said, status != 0


def main() -> None:
    path, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    witness, kills = Witness(path), 0
    for number in range(rounds):
        victims = [Victim(path, number, name, rng) for name in "ab"]
        for told, died in [victim.end() for victim in victims]:
            kills += died
            witness.hear(told)
        if path.exists():
            asyncio.run(witness.look(number))
    heard, told_to = os.pipe()
    child = os.fork()
    if child == 0:
        asyncio.run(Server(path, told_to, rounds).run(adding=0, working=8))
        os._exit(0)
    os.close(told_to)
    with open(heard, "rb") as lines:
        witness.hear(lines.read())
    assert os.waitpid(child, 0)[1] == 0
    tickets = asyncio.run(witness.look(rounds))
    with closing(sqlite3.connect(path)) as database:
        (open_ones,) = database.execute("select count(*) from tickets where state < 3").fetchone()
    print(json.dumps({"kills": kills, "tickets": tickets, "open": open_ones, **witness.facts}))


if __name__ == "__main__":
    main()
