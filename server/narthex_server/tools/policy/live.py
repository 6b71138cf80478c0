"""The policy that is in force, and follows its file."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from narthex.settings import SettingsError

from narthex_server.principal import Principal
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.observer import PolicyObserver
from narthex_server.tools.policy.policy import Policy
from narthex_server.tools.policy.subject import Item, subject_of
from narthex_server.watched_file import WatchedFile

SETTLED = 0.2
"""Seconds that a file has to stay as it is before it counts."""

_log = logging.getLogger(__name__)


class LivePolicy:
    """The rules of a file, and of each newer content that holds rules; a broken one changes nothing.

    It says what of the catalog exists for whom, as a Visibility.
    """

    def __init__(self, file: WatchedFile, observer: PolicyObserver) -> None:
        """Reads the file; raises SettingsError."""
        self._file = file
        self._observer = observer
        try:
            content = file.read()
        except OSError as error:
            raise SettingsError(f"{file.path}: cannot be read: {error.strerror}") from error
        self.policy: Policy = read_policy(content, file.path)

    @property
    def path(self) -> Path:
        return self._file.path

    def shows(self, item: Item, principal: Principal) -> bool:
        return self.policy.plan(principal, subject_of(item)).visible

    async def follow(self, changed: Callable[[], None]) -> None:
        """Takes newer rules as they come, without an end, and then says so."""
        while True:
            content = await self._file.changed()
            await asyncio.sleep(SETTLED)
            if await asyncio.to_thread(self._now) != content:
                continue  # somebody writes: half a rule may allow more than the whole
            try:
                policy = await asyncio.to_thread(read_policy, content, self.path)
            except SettingsError as error:
                _log.error("the policy is not changed, the rules of before stay in force: %s", error)
                self._observer.on_reload(False)
                continue
            self.policy = policy
            _log.info("the policy is %s as it is now, with %d rules", self.path, len(policy.rules))
            self._observer.on_reload(True)
            changed()

    def _now(self) -> bytes | None:
        try:
            return self.path.read_bytes()
        except OSError:
            return None
