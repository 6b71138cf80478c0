"""What one worker is asked to do, and what it answers; workers import it where there is little else."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

LETTERS = [number for number in range(3, 97) if number != 3 + ord("h") - ord("!")]
"""Tokens that bench/make_gguf.py gives to the printable ASCII characters, less one that would take part in a merge."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """`batch` prompts of `context` random tokens, each of them continued by `tokens`.

    Of one seed the prompts are the same for every peer. Who has them in its cache already may use that.
    """

    batch: int
    context: int
    tokens: int
    seed: int = 0

    def prompts(self) -> list[list[int]]:
        rng = random.Random(f"{self.batch} {self.context} {self.seed}")
        return [rng.choices(LETTERS, k=self.context) for _ in range(self.batch)]


@dataclass(frozen=True, slots=True)
class Figures:
    """`first_seconds` until every prompt had its first token, `decode` tokens a second after that, peak of memory."""

    first_seconds: float
    decode: float
    peak_bytes: int


def decode_rate(times: Sequence[Sequence[float]]) -> float:
    """Tokens a second from the last of the first tokens to the first of the last ones: while all sequences run."""
    begun, ended = max(sequence[0] for sequence in times), min(sequence[-1] for sequence in times)
    while_all_run = sum(begun < time <= ended for sequence in times for time in sequence)
    return while_all_run / (ended - begun) if ended > begun else 0.0
