"""Who is told when lists change."""

from collections.abc import Callable

Listener = Callable[[str, str], None]


class Changes:
    """Tells its listeners whose list has changed, a tenant, and its kind (`tools`, `resources`, `prompts`)."""

    def __init__(self) -> None:
        self._listeners: set[Listener] = set()

    def listen(self, listener: Listener) -> Callable[[], None]:
        """From now on calls `listener`; the returned function ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def tell(self, tenant: str, kind: str) -> None:
        for listener in list(self._listeners):
            listener(tenant, kind)
