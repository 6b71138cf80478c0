"""Requests that arrive as they do in practice: at random, of many lengths."""

import math
import random
from dataclasses import dataclass

from bench.peers.measurement import LETTERS

PROMPT, OUTPUT = (16, 1000), (5, 200)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request `at` seconds after the start."""

    at: float
    prompt: tuple[int, ...]
    tokens: int


def arrivals(count: int, rate: float, seed: int) -> list[Arrival]:
    """Poisson arrivals, `rate` a second; lengths of prompts are log-uniform, those of outputs uniform."""
    rng = random.Random(seed)
    at, every = 0.0, []
    for _ in range(count):
        at += rng.expovariate(rate)
        length = round(math.exp(rng.uniform(*map(math.log, PROMPT))))
        every.append(Arrival(at, tuple(rng.choices(LETTERS, k=length)), rng.randint(*OUTPUT)))
    return every
