"""The factors of loaded adapters, as the inputs of an adapted graph."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import FailedPrecondition, ResourceExhausted
from narthex_server.runtime.pages import Pages

Floats = NDArray[np.float32]


class Factors(Protocol):
    """The factors of one module: a [rank, columns], b [rank, rows]."""

    @property
    def a(self) -> Floats: ...

    @property
    def b(self) -> Floats: ...


class Adapter(Protocol):
    """Factors by module name."""

    @property
    def modules(self) -> Mapping[str, Factors]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """Room for so many adapters, each of at most this rank and this many bytes."""

    count: int = 8
    rank: int = 256
    bytes: int = 1 << 30


class _Stack:
    """Factors of all adapters, one above the other: `rows` [ranks, width], zeros where there are none."""

    def __init__(self, ranks: int, width: int) -> None:
        self._pages = Pages(ranks * width * 4)
        self.rows: Floats = self._pages.array((ranks, width))

    def clear(self, ranks: range) -> None:
        cleared = self.rows[ranks.start : ranks.stop]
        cleared[:] = 0  # also what shares its page with a neighbour
        self._pages.forget(ranks.start * self.rows[0].nbytes, cleared.nbytes)


@dataclass(frozen=True, slots=True)
class Bound:
    """Inputs of the graph by name; `windows` are the ranks of each kind that they show, and tell them from others."""

    windows: tuple[range, ...]
    buffers: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class _Module:
    """One adaptable module; `a` [ranks, columns] and `b` [ranks, rows] hold the factors of all adapters."""

    name: str
    kind: str
    a: _Stack
    b: _Stack


class AdapterBank:
    """Places for adapters: each takes neighbouring ranks in every kind of module that it adapts.

    Buffers are reserved for the limits and cost memory only where they are written.
    """

    def __init__(self, note: str, limits: Limits) -> None:
        """`note` is the graph's list of what can be adapted."""
        self.limits = limits
        ranks = 2 * limits.count * limits.rank  # so that there is always a gap that is large enough
        self._modules = [
            _Module(name, kind, _Stack(ranks, columns), _Stack(ranks, rows))
            for name, kind, columns, rows in json.loads(note)
        ]
        self._index = {module.name: at for at, module in enumerate(self._modules)}
        kinds = dict.fromkeys(module.kind for module in self._modules)
        self._places: dict[str, dict[int, range]] = {kind: {} for kind in kinds}
        self._bound: dict[tuple[range, ...], Bound] = {}
        """Of these places, until one changes."""

    def check(self, adapter: Adapter) -> None:
        """Whether the adapter fits the model and the limits. Errors: FailedPrecondition, ResourceExhausted."""
        unknown = [name for name in adapter.modules if name not in self._index]
        if unknown:
            raise FailedPrecondition(
                f"the adapter changes {unknown[0]} ({len(unknown)} of {len(adapter.modules)} modules like it), which "
                "this model does not have or cannot adapt: was it made for another model?",
                reason="ADAPTER_MISMATCH",
            )
        for name, factors in adapter.modules.items():
            module = self._modules[self._index[name]]
            found, wanted = (factors.a.shape[1], factors.b.shape[1]), (module.a.rows.shape[1], module.b.rows.shape[1])
            if found != wanted:
                raise FailedPrecondition(
                    f"the adapter's {name} is for {found[0]} columns and {found[1]} rows, the model's has {wanted[0]} "
                    f"and {wanted[1]}: it was made for another model",
                    reason="ADAPTER_MISMATCH",
                )
        rank = max(len(factors.a) for factors in adapter.modules.values())
        size = sum(factors.a.nbytes + factors.b.nbytes for factors in adapter.modules.values())
        for what, value, limit in (("rank", rank, self.limits.rank), ("size in bytes", size, self.limits.bytes)):
            if value > limit:
                raise ResourceExhausted(
                    f"the adapter's {what} is {value}, the limit of this server {limit}",
                    reason="ADAPTER_TOO_LARGE",
                    metadata={"limit": str(limit), "value": str(value)},
                )

    def load(self, place: int, adapter: Adapter) -> None:
        """Put a checked adapter in a free place."""
        for kind, places in self._places.items():
            ranks = [len(f.a) for name, f in adapter.modules.items() if self._modules[self._index[name]].kind == kind]
            if ranks:
                places[place] = self._free(kind, max(ranks))
        for name, factors in adapter.modules.items():
            module = self._modules[self._index[name]]
            first = self._places[module.kind][place].start
            module.a.rows[first : first + len(factors.a)] = factors.a
            module.b.rows[first : first + len(factors.b)] = factors.b
        self._bound.clear()

    def unload(self, place: int) -> None:
        """Empty a place; its ranks become zeros, whose memory goes back to the system."""
        for module in self._modules:
            if (ranks := self._places[module.kind].get(place)) is not None:
                module.a.clear(ranks)
                module.b.clear(ranks)
        for places in self._places.values():
            places.pop(place, None)
        self._bound.clear()

    def inputs(self, used: Iterable[int]) -> Bound:
        """What the graph is bound to while it computes with the adapters in these places: their factors, no others'."""
        used = tuple(used)
        windows = tuple(self._window(kind, used) for kind in self._places)
        if (known := self._bound.get(windows)) is None:
            known = self._bound[windows] = Bound(windows, self._views(windows))
        return known

    def close(self) -> None:
        """Let go of all factors."""
        self._modules.clear()
        self._bound.clear()

    @property
    def modules(self) -> tuple[str, ...]:
        """What can be adapted, in the order of the scales."""
        return tuple(self._index)

    def _free(self, kind: str, size: int) -> range:
        """The first gap of `size` ranks."""
        start = 0
        for taken in sorted(self._places[kind].values(), key=lambda ranks: ranks.start):
            if taken.start - start >= size:
                break
            start = taken.stop
        return range(start, start + size)

    def _window(self, kind: str, used: Iterable[int]) -> range:
        """The ranks from the first to the last of these places; one where there are none, for kernels dislike none."""
        taken = [ranks for place in used if (ranks := self._places[kind].get(place)) is not None]
        return range(min(r.start for r in taken), max(r.stop for r in taken)) if taken else range(1)

    def _views(self, windows: tuple[range, ...]) -> dict[str, Floats]:
        of_kind = dict(zip(self._places, windows, strict=True))
        views = {}
        for module in self._modules:
            window = of_kind[module.kind]
            views[f"{module.name}.a"] = module.a.rows[window.start : window.stop]
            views[f"{module.name}.b"] = module.b.rows[window.start : window.stop]
        for kind, window in of_kind.items():
            ranks = np.zeros((self.limits.count, len(window)), np.float32)
            for place, taken in self._places[kind].items():
                ranks[place, max(taken.start - window.start, 0) : max(taken.stop - window.start, 0)] = 1
            views[f"ranks.{kind}"] = ranks
        return views
