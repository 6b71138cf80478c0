"""What a lock's counts are at one moment."""

from dataclasses import dataclass, field

BOUNDS = (
    0.000_01, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0,
)  # fmt: skip
"""Upper bounds, in seconds, of what waits and holds are sorted into: a wait of 1 ms and one of 5 ms are told apart."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """Times in seconds: how many were within each of BOUNDS but not within the one before, and how many above all."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    total: float = 0.0
    longest: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    @property
    def mean(self) -> float | None:
        """None where there is nothing."""
        return self.total / self.count if self.count else None

    def below(self, share: float) -> float | None:
        """What this share of the times stayed below, no finer than BOUNDS; None where there is nothing."""
        wanted, seen = share * self.count, 0
        for bound, count in zip((*BOUNDS, self.longest), self.counts, strict=True):
            seen += count
            if count and seen >= wanted:
                return min(bound, self.longest)
        return None

    def __add__(self, other: "Distribution") -> "Distribution":
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Distribution(counts, self.total + other.total, max(self.longest, other.longest))


@dataclass(frozen=True, slots=True)
class LockReading:
    """All locks of one name, from the start of the process on; `waits` are of those who had to wait, also in vain.

    Not every hold is timed: `holds` are samples.
    """

    name: str
    acquisitions: int = 0
    waits: Distribution = field(default_factory=Distribution)
    holds: Distribution = field(default_factory=Distribution)

    @property
    def contended(self) -> int:
        """How often somebody had to wait."""
        return self.waits.count

    @property
    def waited(self) -> float:
        """Seconds that all of them waited together."""
        return self.waits.total

    @property
    def wait_p99(self) -> float | None:
        """Seconds that 99 of 100 waits stayed below; None where nobody waited."""
        return self.waits.below(0.99)

    @property
    def held_mean(self) -> float | None:
        """Seconds that it was held on average; None where that is not known."""
        return self.holds.mean
