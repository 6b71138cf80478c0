"""Which waiting texts are encoded together."""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from narthex_server.embedding.head import Pooling

_LEAST, _SLACK = 0.9, 2
"""A text joins one that is longer by this share, or by so few tokens: padding must cost less than it saves."""


@dataclass(slots=True)
class Job:
    """One request: its texts' token ids, and their vectors [N, dimensions] as they come."""

    key: int
    texts: Sequence[NDArray[np.int64]]
    pooling: Pooling
    vectors: NDArray[np.float32]
    waiting: list[int] = field(init=False)
    left: int = field(init=False)

    def __post_init__(self) -> None:
        self.waiting = sorted(range(len(self.texts)), key=self.length)
        self.left = len(self.texts)

    def length(self, index: int) -> int:
        """Tokens of a text."""
        return len(self.texts[index])

    def take(self, least: int, most: int, room: int) -> list[int]:
        """Up to `room` waiting texts of these lengths, the longest first to go."""
        low = bisect_left(self.waiting, least, key=self.length)
        high = bisect_right(self.waiting, most, key=self.length)
        taken = self.waiting[max(low, high - room) : high]
        del self.waiting[max(low, high - room) : high]
        return taken


class Batcher:
    """Requests take turns; each turn's longest text sets the batch, which texts of about its length fill up.

    A batch has at most `budget` tokens, padding included, or one text; `alone`: always one text.
    """

    def __init__(self, budget: int, alone: bool) -> None:
        self._budget = budget
        self._alone = alone
        self._jobs: deque[Job] = deque()

    def __bool__(self) -> bool:
        return bool(self._jobs)

    def add(self, job: Job) -> None:
        self._jobs.append(job)

    def remove(self, key: int) -> None:
        """Forget a request; one that is not there is none."""
        self._jobs = deque(job for job in self._jobs if job.key != key)

    def next(self) -> list[tuple[Job, int]]:
        """Take the texts of the next batch: requests, and indices of their texts."""
        first = self._jobs[0]
        longest = first.length(first.waiting[-1])
        least = min(int(longest * _LEAST), longest - _SLACK)
        room = 1 if self._alone else max(self._budget // longest, 1)
        batch: list[tuple[Job, int]] = []
        for job in self._jobs:
            batch += [(job, index) for index in job.take(least, longest, room - len(batch))]
            if len(batch) == room:
                break
        self._jobs.rotate(-1)
        self._jobs = deque(job for job in self._jobs if job.waiting)
        return batch
