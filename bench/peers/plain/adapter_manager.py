"""Which adapter is where, and who uses it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from narthex_server.engine.adapters import AdapterInfo, Adapters, Mixture
from narthex_server.engine.decoder import AdapterPlaces
from narthex_server.engine.request import AdapterUse
from narthex_server.sync.locks import Locks
from narthex_server.weights.adapters import read_adapter


class AdapterManager:
    """Request threads count their uses, so that an adapter in use would not be unloaded."""

    def __init__(self, places: AdapterPlaces | None, locks: Locks) -> None:
        self._places = places
        self._adapters = Adapters(places)
        self._uses: Counter[str] = Counter()
        self._lock = locks.mutex("adapter_manager")

    def load(self, name: str, folder: Path) -> None:
        """Before the loop runs."""
        weights = read_adapter(folder)
        with self._lock:
            place = self._adapters.reserve(name, weights)
            if self._places is not None:
                self._places.load(place, weights)
            self._adapters.settle(AdapterInfo(name, weights.rank, weights.scale), place, loaded=True)

    @contextmanager
    def use(self, uses: Sequence[AdapterUse]) -> Iterator[Mixture | None]:
        """What a request computes with, in use within the block. Errors: NotFound."""
        names = [use.name for use in uses]
        with self._lock:
            mixture = self._adapters.mix(uses)
            self._uses.update(names)
        try:
            yield mixture
        finally:
            with self._lock:
                self._uses.subtract(names)
