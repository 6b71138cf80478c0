"""Which adapter is in which place of a session's bank, as the event loop knows it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from narthex_server.engine.decoder import AdapterBank, Blend
from narthex_server.engine.request import AdapterUse
from narthex_server.errors import AlreadyExists, FailedPrecondition, NotFound, ResourceExhausted


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """What people want to know of a loaded adapter; `scale` is its own, which AdapterUse.scale multiplies."""

    name: str
    rank: int
    scale: float


@dataclass(frozen=True, slots=True)
class Placed:
    """An adapter in its place; `serial` tells it from any other that was or will be there."""

    info: AdapterInfo
    place: int
    serial: int


@dataclass(frozen=True, slots=True)
class Mixture:
    """How much of the adapter in each place [capacity] a request uses; equal keys are equal computations."""

    blend: Blend
    key: tuple[tuple[int, float], ...]


class Adapters:
    """Names and places; `bank` None means that the model was loaded without room for adapters."""

    def __init__(self, bank: AdapterBank | None) -> None:
        self._bank = bank
        self._placed: dict[str, Placed] = {}
        self._coming: set[str] = set()
        self._free = list(range(bank.capacity)) if bank else []
        self._serial = 0

    def __iter__(self) -> Iterator[AdapterInfo]:
        return iter([placed.info for placed in self._placed.values()])

    def reserve(self, name: str, adapter: Any) -> int:
        """Take a place for an adapter that fits.

        Errors: FailedPrecondition (no room configured, made for another model), AlreadyExists, ResourceExhausted.
        """
        if self._bank is None:
            raise FailedPrecondition(
                "this model was loaded without room for adapters; start the server with --max-adapters, which gives it "
                "to models that neither are an ONNX graph nor have an X-LoRA",
                reason="ADAPTERS_DISABLED",
            )
        if name in self._placed or name in self._coming:
            raise AlreadyExists(f"there is an adapter {name!r} already; unload it first", metadata={"adapter": name})
        self._bank.check(adapter)
        if not self._free:
            limit = self._bank.capacity
            raise ResourceExhausted(
                f"{limit} adapters are loaded, the limit; unload one, or raise --max-adapters",
                reason="TOO_MANY_ADAPTERS",
                metadata={"limit": str(limit)},
            )
        self._coming.add(name)
        return self._free.pop()

    def settle(self, info: AdapterInfo, place: int, loaded: bool) -> None:
        """The adapter is in its place, and requests may name it, or could not be loaded."""
        self._coming.discard(info.name)
        if not loaded:
            self._free.append(place)
            return
        self._serial += 1
        self._placed[info.name] = Placed(info, place, self._serial)

    def remove(self, name: str) -> int:
        """No request may name it from here on; its place is free once it is released. Errors: NotFound."""
        return self._placed.pop(self._known(name)).place

    def release(self, place: int, error: BaseException | None) -> None:
        """The place is empty, unless there was an error."""
        if error is None:
            self._free.append(place)

    def mix(self, uses: Sequence[AdapterUse]) -> Mixture | None:
        """What a request computes with; None without adapters. Errors: NotFound."""
        if not uses or self._bank is None:
            for use in uses:
                self._known(use.name)
            return None
        blend = np.zeros(self._bank.capacity, np.float32)
        for use in uses:
            blend[self._placed[self._known(use.name)].place] += use.scale
        serials = {placed.place: placed.serial for placed in self._placed.values()}
        used = np.flatnonzero(blend).tolist()
        return Mixture(blend, tuple((serials[place], float(blend[place])) for place in used))

    def _known(self, name: str) -> str:
        if name not in self._placed:
            known = ", ".join(self._placed) or "none"
            raise NotFound(
                f"there is no adapter {name!r}; loaded are: {known}",
                reason="ADAPTER_NOT_FOUND",
                metadata={"adapter": name},
            )
        return name
