"""Conversations as a client has them: several turns of many lengths, some with an adapter, some with tools."""

import math
import random
from dataclasses import dataclass

USER, ANSWER, TURNS = (20, 300), (16, 64), (2, 3)
"""Characters of what a user says, tokens of an answer, and turns."""
WINDOW = 1_900
"""Characters of a conversation that are sent: the oldest turns are left out beyond."""
WORDS = (
    "river", "stone", "light", "paper", "garden", "music", "winter", "table", "answer", "number", "letter", "morning",
    "engine", "silver", "window", "forest", "bridge", "island", "market", "summer", "doctor", "police", "reason",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Turn:
    """What the user says, and how many tokens answer it; with `calls` a tool is called in between."""

    text: str
    tokens: int
    calls: bool


@dataclass(frozen=True, slots=True)
class Chat:
    """`adapter` is empty for none; `seed` is that of all its draws."""

    turns: tuple[Turn, ...]
    adapter: str
    tools: bool
    seed: int


def chats(count: int, seed: int, adapters: tuple[str, ...]) -> list[Chat]:
    """Every other one has tools, and calls one in half of its turns; each third is with an adapter."""
    rng = random.Random(seed)
    return [
        Chat(
            tuple(_turn(rng, calls=number % 2 == 0) for _ in range(rng.randint(*TURNS))),
            rng.choice(adapters) if number % 3 == 0 and adapters else "",
            number % 2 == 0,
            rng.getrandbits(32),
        )
        for number in range(count)
    ]


def _turn(rng: random.Random, calls: bool) -> Turn:
    length, words = round(math.exp(rng.uniform(*map(math.log, USER)))), [str(rng.randrange(1_000_000))]
    while sum(map(len, words)) + len(words) < length:
        words.append(rng.choice(WORDS))
    return Turn(" ".join(words), rng.randint(*ANSWER), calls and rng.random() < 0.5)
