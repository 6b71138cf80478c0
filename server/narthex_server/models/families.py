"""Finds the module of a model family: `models/<model_type>.py` generates, `models/encoders/<model_type>.py` embeds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile

_NOT_FAMILIES = frozenset({"__init__", "base", "families"})


class Kind(Enum):
    """What a family's graph is for; the value is the package of its files."""

    DECODER = "models"
    ENCODER = "models.encoders"

    @property
    def folder(self) -> str:
        """The place of its files below the server's package."""
        return self.value.replace(".", "/")


@dataclass(frozen=True, slots=True)
class Family:
    """CONFIG parses a Hugging Face config; build(config, weights, graph, max_len) adds the nodes."""

    config: Callable[[Mapping[str, Any]], Any]
    build: Callable[..., None]


def supported(kind: Kind = Kind.DECODER) -> list[str]:
    """List the model types that have a file."""
    folder = Path(__file__).parents[1] / kind.folder
    return sorted(file.stem for file in folder.glob("*.py") if file.stem not in _NOT_FAMILIES)


def check(model_type: str, kind: Kind = Kind.DECODER) -> None:
    """Raise InvalidModelFile for a model type without a file; imports nothing."""
    if _stem(model_type) not in supported(kind):
        raise InvalidModelFile(
            f"model type {model_type!r} is not supported; supported are {', '.join(supported(kind))}. "
            f"A new family is one file, {kind.folder}/{_stem(model_type)}.py, that exports CONFIG and build.",
            reason="UNSUPPORTED_ARCHITECTURE",
            metadata={"model_type": model_type},
        )


def family(model_type: str, kind: Kind = Kind.DECODER) -> Family:
    """Import the module of a model type."""
    check(model_type, kind)
    module = import_module(f"narthex_server.{kind.value}.{_stem(model_type)}")
    return Family(module.CONFIG, module.build)


def _stem(model_type: str) -> str:
    return model_type.replace("-", "_")
