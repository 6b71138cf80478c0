"""A model in GGUF: one file, or the parts `<name>-00001-of-00003.gguf` that llama.cpp splits large ones into."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile
from narthex_server.weights.gguf import GgufFile
from narthex_server.weights.tensors import StoredTensor

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_NUMBER, _COUNT, _TENSORS = "split.no", "split.count", "split.tensors.count"


@dataclass(frozen=True, slots=True)
class GgufModel:
    """Metadata of the first part and tensors of all `paths`."""

    paths: tuple[Path, ...]
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def path(self) -> Path:
        return self.paths[0]


def open_gguf(path: Path) -> GgufModel:
    """Open a file, and the parts beside it when it is one; InvalidModelFile names what is missing or does not fit."""
    file = GgufFile(path)
    count = file.metadata.get(_COUNT, 1)
    if not isinstance(count, int) or count <= 1:
        return GgufModel((path,), file.metadata, file.tensors)
    if (name := _PART.fullmatch(path.name)) is None or int(name[3]) != count:
        raise InvalidModelFile(
            f"{path} is one of {count} parts; they are found by their names, which end in -00001-of-{count:05}.gguf"
        )
    paths = tuple(path.with_name(f"{name[1]}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1))
    if missing := [part.name for part in paths if not part.is_file()]:
        listed = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        raise InvalidModelFile(f"{path} is one of {count} parts, of which {listed} are missing")
    return _joined([file if part == path else GgufFile(part) for part in paths], count)


def _joined(files: list[GgufFile], count: int) -> GgufModel:
    first = files[0]
    tensors: dict[str, StoredTensor] = {}
    for number, file in enumerate(files):
        found = (file.metadata.get(_NUMBER), file.metadata.get(_COUNT))
        if found != (number, count):
            raise InvalidModelFile(
                f"{file.path}: {_NUMBER} and {_COUNT} are {found[0]} and {found[1]}; its name says {number} and {count}"
            )
        if twice := next((name for name in file.tensors if name in tensors), None):
            raise InvalidModelFile(f"{file.path}: tensor {twice} is in an earlier part too")
        tensors |= file.tensors
    if (expected := first.metadata.get(_TENSORS, len(tensors))) != len(tensors):
        raise InvalidModelFile(f"{first.path}: {_TENSORS} is {expected}, the {count} parts have {len(tensors)}")
    return GgufModel(tuple(file.path for file in files), first.metadata, tensors)


def models_among(paths: Iterable[Path]) -> list[Path]:
    """The files that are models: of each set of parts only the first."""
    return [path for path in paths if (name := _PART.fullmatch(path.name)) is None or int(name[2]) == 1]
