"""Finds the module of a model family: the file `models/<model_type>.py`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile

_NOT_FAMILIES = frozenset({"__init__", "base", "families", "mixture"})


@dataclass(frozen=True, slots=True)
class Family:
    """`config` parses a Hugging Face config; model(config, weights, graph, attention) has a method for each task."""

    config: Callable[[Mapping[str, Any]], Any]
    model: Callable[..., Any]


def supported() -> list[str]:
    """List the model types that have a file."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in _NOT_FAMILIES)


def check(model_type: str) -> None:
    """Raise InvalidModelFile for a model type without a file; imports nothing."""
    if model_type not in supported():
        raise InvalidModelFile(
            f"model type {model_type!r} is not supported; supported are {', '.join(supported())}. "
            f"A new family is one file, models/{model_type}.py, that exports CONFIG and MODEL.",
            reason="UNSUPPORTED_ARCHITECTURE",
            metadata={"model_type": model_type},
        )


def family(model_type: str) -> Family:
    """Import the module of a model type."""
    check(model_type)
    module = import_module(f"narthex_server.models.{model_type}")
    return Family(module.CONFIG, module.MODEL)
