"""The file of upstreams, followed while the server runs."""

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import time
from typing import Protocol

from narthex.settings import SettingsError

from narthex_server.tools.acts import SYSTEM, Acts, acting
from narthex_server.tools.fleet import Fleet
from narthex_server.tools.upstream.source import ServerSource
from narthex_server.watched_file import WatchedFile

_log = logging.getLogger(__name__)


class ReloadObserver(Protocol):
    """Told how each reading of the file ended: `applied`, `unchanged` or `invalid`; `moment` since the epoch."""

    def on_reload(self, outcome: str, moment: float) -> None: ...


class Reloads:
    """Applies the file's upstreams whenever its content is another one, and when asked to."""

    def __init__(
        self,
        file: WatchedFile,
        parse: Callable[[bytes], Sequence[ServerSource]],
        fleet: Fleet,
        observer: ReloadObserver,
        acts: Acts,
        follow: bool = True,
    ) -> None:
        """`parse` raises SettingsError; without `follow` the file is read when asked alone."""
        self._file = file
        self._parse = parse
        self._fleet = fleet
        self._observer = observer
        self._acts = acts
        self._follow = follow
        self._asked = asyncio.Event()

    def ask(self) -> None:
        """Has the file read again, changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Goes on until it is cancelled."""
        while True:
            asked = asyncio.create_task(self._asked.wait())
            waiting: list[asyncio.Task[object]] = [asked]
            if self._follow:
                waiting.append(asyncio.create_task(self._file.changed()))
            try:
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                content = None if asked.done() else waiting[-1].result()
            finally:
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
            self._asked.clear()
            await self._reload(content if isinstance(content, bytes) else None)

    async def _reload(self, content: bytes | None) -> None:
        try:
            if content is None:
                content = await asyncio.to_thread(self._file.read)
            sources = await asyncio.to_thread(self._parse, content)
            with acting(self._acts, "upstream.reload", str(self._file.path), SYSTEM):
                outcome = "applied" if await self._fleet.apply(sources) else "unchanged"
        except (SettingsError, OSError) as error:
            outcome = "invalid"
            why = error if isinstance(error, SettingsError) else f"{self._file.path}: cannot be read: {error.strerror}"
            _log.warning("the upstreams stay as they are: %s", why)
        else:
            _log.info("%s was read again: %s", self._file.path, outcome)
        self._observer.on_reload(outcome, time())


class HangUp:
    """SIGHUP inside the block: `reload`, unless it says that the terminal is gone, which ends the process as before."""

    def __init__(self, reload: Callable[[], None]) -> None:
        self._reload = reload
        self._attended = _has_terminal()

    def __enter__(self) -> None:
        with suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):  # Windows, or no main thread
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._receive)

    def __exit__(self, *_: object) -> None:
        with suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    def _receive(self) -> None:
        if self._attended and not _has_terminal():
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._reload()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY))
    except OSError:
        return False
    return True
