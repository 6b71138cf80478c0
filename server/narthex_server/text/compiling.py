"""What the grammars of all models share while they are compiled."""

import threading
from collections.abc import Callable
from typing import TypeVar

from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.sync.mutex import Mutex

_STACK = 1 << 29
"""Bytes of address space for a thread that compiles: the library recurses over rules and dies where it ends."""

T = TypeVar("T")


class Compiling:
    """Threads with room for deep recursion, and locks; one for a process: the size of stacks is a setting of it all."""

    def __init__(self, locks: Locks = UNMETERED) -> None:
        self._locks = locks
        self._starting = locks.mutex("grammar_thread")

    def mutex(self) -> Mutex:
        """One that guards what a model's grammars have in common."""
        return self._locks.mutex("sampling")

    def deeply(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread of its own, with room for deep recursion in native code."""
        results: list[T] = []
        failures: list[BaseException] = []

        def run() -> None:
            try:
                results.append(work())
            except BaseException as error:  # carried to the thread that waits
                failures.append(error)

        with self._starting:  # while a thread is started with a stack of another size
            before = threading.stack_size(_STACK)
            try:
                thread = threading.Thread(target=run, name="grammar")
                thread.start()
            finally:
                threading.stack_size(before)
        thread.join()
        if failures:
            raise failures[0]
        return results[0]
