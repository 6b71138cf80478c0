"""What was measured of one model, and the tables of it."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from bench.peers.peer import Loaded

RIVALS = ("llama.cpp", "llama.cpp-noflash")
"""Ways to run one program: the better one counts, cell by cell."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One thing to measure: `decode` in tokens/s, `prefill` in tokens/s, or `first` in milliseconds."""

    measure: str
    batch: int
    context: int

    def __str__(self) -> str:
        return f"{self.measure} {self.batch} x {self.context}"

    def ratio(self, ours: float, theirs: float) -> float:
        """How many times better ours is."""
        return theirs / ours if self.measure == "first" else ours / theirs


@dataclass(slots=True)
class Results:
    """Values by peer and cell, one for each round."""

    model: str
    loaded: dict[str, Loaded]
    values: dict[str, dict[Cell, list[float]]] = field(default_factory=dict)
    peaks: dict[str, int] = field(default_factory=dict)
    others: dict[str, list[float]] = field(default_factory=dict)

    def add(self, peer: str, cell: Cell, value: float, peak: int, others: float) -> None:
        self.others.setdefault(peer, []).append(others)
        self.values.setdefault(peer, {}).setdefault(cell, []).append(value)
        self.peaks[peer] = max(peak, self.peaks.get(peer, 0))

    def table(self, ours: Iterable[str]) -> str:
        """Medians with their ranges, and the ratios of each of `ours` to every other peer."""
        medians = {peer: {cell: median(all_) for cell, all_ in cells.items()} for peer, cells in self.values.items()}
        pairs = [(our, other) for our in ours if our in medians for other in self._others(our, medians)]
        columns = [*medians, *(f"{our}/{other}" for our, other in pairs)]
        ratios: dict[tuple[str, str], dict[Cell, float]] = {
            (our, other): ratios_of(medians[our], self._best(other, medians)) for our, other in pairs
        }
        cells = list(dict.fromkeys(cell for by_cell in medians.values() for cell in by_cell))
        lines = [f"| {self.model} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
        for cell in cells:
            shown = [spread(self.values[peer].get(cell, [])) for peer in medians]
            shown += [f"{ratios[pair][cell]:.2f}" if cell in ratios[pair] else "-" for pair in pairs]
            lines.append(f"| {cell} | " + " | ".join(shown) + " |")
        blank = ["" for _ in medians]
        for title, pick in (("decode, geometric mean", geometric_mean), ("decode, worst", min)):
            grids = ([ratio for cell, ratio in ratios[pair].items() if cell.measure == "decode"] for pair in pairs)
            shown = [f"{pick(grid):.2f}" if grid else "-" for grid in grids]
            lines.append(f"| {title} | " + " | ".join([*blank, *shown]) + " |")
        for title, figures in self._costs().items():
            lines.append(
                f"| {title} | " + " | ".join([*(figures[peer] for peer in medians), *["" for _ in pairs]]) + " |"
            )
        return "\n".join(lines)

    def figures(self) -> dict[str, object]:
        """All of it, for JSON."""
        return {
            "model": self.model,
            "peers": {
                peer: {
                    "load_seconds": self.loaded[peer].load_seconds, "base_bytes": self.loaded[peer].base_bytes,
                    "loaded_bytes": self.loaded[peer].loaded_bytes, "peak_bytes": self.peaks[peer],
                    "others": self.others[peer],
                    "cells": {str(cell): values for cell, values in cells.items()},
                }
                for peer, cells in self.values.items()
            },
        }  # fmt: skip

    def _others(self, our: str, medians: Mapping[str, object]) -> list[str]:
        family = our.split("-")[0]
        return [peer for peer in medians if not peer.startswith(family) and peer not in RIVALS[1:]]

    def _best(self, peer: str, medians: Mapping[str, Mapping[Cell, float]]) -> dict[Cell, float]:
        """The peer's medians; of one that ran in several ways the better ones."""
        best = dict(medians[peer])
        for rival in RIVALS[1:] if peer == RIVALS[0] and RIVALS[1] in medians else ():
            for cell, value in medians[rival].items():
                best[cell] = (min if cell.measure == "first" else max)(value, best.get(cell, value))
        return best

    def _costs(self) -> dict[str, dict[str, str]]:
        return {
            "load, s": {peer: f"{loaded.load_seconds:.1f}" for peer, loaded in self.loaded.items()},
            "MiB before loading": {peer: mebibytes(loaded.base_bytes) for peer, loaded in self.loaded.items()},
            "MiB loaded": {peer: mebibytes(loaded.loaded_bytes) for peer, loaded in self.loaded.items()},
            "cores of others": {peer: f"{median(all_):.2f} ({max(all_):.2f})" for peer, all_ in self.others.items()},
            "MiB at peak": {peer: mebibytes(peak) for peer, peak in self.peaks.items()},
        }


def ratios_of(ours: Mapping[Cell, float], theirs: Mapping[Cell, float]) -> dict[Cell, float]:
    return {cell: cell.ratio(value, theirs[cell]) for cell, value in ours.items() if cell in theirs}


def geometric_mean(values: Iterable[float]) -> float:
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs))


def spread(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f}, {max(values):.0f})" if values else "-"


def mebibytes(size: int) -> str:
    return f"{size / 2**20:.0f}"
