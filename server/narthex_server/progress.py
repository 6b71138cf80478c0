"""How far the loading of a model is."""

from enum import Enum
from typing import Protocol


class Stage(Enum):
    """What is being done, in this order; a graph that is found in the cache is not built."""

    READ = "read"
    BUILD = "build"
    START = "start"


class Progress(Protocol):
    """Told in the loading thread, often; what it raises ends the loading there and then."""

    def __call__(self, stage: Stage, fraction: float) -> None:
        """So much of a stage is done, 0 to 1."""
        ...


def unheard(stage: Stage, fraction: float) -> None:
    """The Progress of whom nobody listens to."""
