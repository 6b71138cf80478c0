"""Bytes that were made last."""

from collections.abc import Callable

from narthex_server.weights.formats import Bytes


class Latest:
    """Keeps what was made for the last name: who builds a graph asks for quants, scales and offsets of one in turn."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._bytes: Bytes | None = None

    def get(self, name: str, make: Callable[[], Bytes]) -> Bytes:
        """Return the bytes under this name; `make` is called unless they were the last ones asked for."""
        if self._bytes is None or self._name != name:
            self._bytes = None  # before the next are made: two would be held
            self._name, self._bytes = name, make()
        return self._bytes
