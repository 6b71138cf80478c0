"""Who is told when lists change."""

from collections.abc import Callable

Listener = Callable[[str], None]


class Changes:
    """Tells its listeners the kind (`tools`, `resources`, `prompts`) of each list that has changed."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """From now on calls `listener`; the returned function ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def tell(self, kind: str) -> None:
        for listener in list(self._listeners):
            listener(kind)
