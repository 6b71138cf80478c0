"""The models by name, and how many requests each has."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from narthex_server.errors import NotFound
from narthex_server.sync.locks import Locks

from bench.peers.plain.model import PlainModel


class ModelRouter:
    """Request threads count themselves in and out, so that a model in use would not be unloaded."""

    def __init__(self, locks: Locks) -> None:
        self._lock = locks.mutex("model_router")
        self._models: dict[str, PlainModel] = {}
        self._running: Counter[str] = Counter()

    def add(self, model: PlainModel) -> None:
        with self._lock:
            self._models[model.name] = model

    @contextmanager
    def use(self, name: str) -> Iterator[PlainModel]:
        """The model, counted as in use within the block. Errors: NotFound."""
        with self._lock:
            model = self._models.get(name)
            self._running[name] += model is not None
        if model is None:
            raise NotFound(f"there is no model {name!r}")
        try:
            yield model
        finally:
            with self._lock:
                self._running[name] -= 1
