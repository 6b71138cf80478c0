"""Finds the module of a model family: `models/<model_type>.py`, or in `models/encoders/` one that cannot generate."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile

_NOT_FAMILIES = frozenset({"__init__", "base", "families", "mixture"})


class Task(Enum):
    """What a model is for; the value lists the packages of the families that can do it."""

    GENERATE = ("models",)
    ENCODE = ("models.encoders", "models")


@dataclass(frozen=True, slots=True)
class Family:
    """`config` parses a Hugging Face config; model(config, weights, graph, …) has a method for each task."""

    config: Callable[[Mapping[str, Any]], Any]
    model: Callable[..., Any]


def supported(task: Task = Task.GENERATE) -> list[str]:
    """List the model types that have a file."""
    return sorted({name for package in task.value for name in _names(package)})


def is_supported(model_type: str, task: Task = Task.GENERATE) -> bool:
    """Whether a model type has a file for the task."""
    return _name(model_type) in supported(task)


def only_encodes(model_type: str) -> bool:
    """Whether a model type has a file, but none that generates."""
    return is_supported(model_type, Task.ENCODE) and not is_supported(model_type)


def check(model_type: str, task: Task = Task.GENERATE) -> None:
    """Raise InvalidModelFile for a model type without a file; imports nothing."""
    if not is_supported(model_type, task):
        file = f"{task.value[0].replace('.', '/')}/{_name(model_type)}.py"
        raise InvalidModelFile(
            f"model type {model_type!r} is not supported; supported are {', '.join(supported(task))}. "
            f"A new family is one file, {file}, that exports CONFIG and MODEL.",
            reason="UNSUPPORTED_ARCHITECTURE",
            metadata={"model_type": model_type},
        )


def family(model_type: str, task: Task = Task.GENERATE) -> Family:
    """Import the module of a model type."""
    check(model_type, task)
    name = _name(model_type)
    package = next(package for package in task.value if name in _names(package))
    module = import_module(f"narthex_server.{package}.{name}")
    return Family(module.CONFIG, module.MODEL)


def _names(package: str) -> set[str]:
    folder = Path(__file__).parents[1].joinpath(*package.split("."))
    return {file.stem for file in folder.glob("*.py")} - _NOT_FAMILIES


def _name(model_type: str) -> str:
    return model_type.replace("-", "_")
