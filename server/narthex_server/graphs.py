"""The graphs of a model: found in the cache, or built."""

import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from narthex_server.errors import NotOnDevice
from narthex_server.opening import ModelFiles
from narthex_server.progress import Progress, Stage
from narthex_server.runtime.allocation import check_room
from narthex_server.runtime.cache import GRAPH, WEIGHTS, GraphCache, entry_key
from narthex_server.weights.heard import HeardWeights
from narthex_server.weights.tensors import WeightSource

if TYPE_CHECKING:
    from narthex_server.graph.builder import GraphBuilder

_log = logging.getLogger(__name__)
COMPUTE = ("auto", "float32", "block8", "int8")
HALF = ("float16", "bfloat16")
_SOURCES = (
    "graph", "models", "weights", "opening.py", "loading.py", "cuda.py", "embedders.py", "calibration.py",
)  # fmt: skip
"""All code that has a say in what a graph is like."""


class Variant(Enum):
    """What a graph is built for.

    Generating, also with many tokens at once, with adapters or with the states that X-LoRA reads too; or encoding.
    PAGED generates over paged caches, and COPY copies their blocks.
    """

    PLAIN = "plain"
    WIDE = "wide"
    ADAPTED = "adapted"
    XLORA = "xlora"
    ENCODER = "encoder"
    PAGED = "paged"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Graphs(ABC):
    """The graphs of one model, from the cache or built; what builds takes half a second to import, so only then."""

    cache: GraphCache
    source: ModelFiles
    model_type: str
    max_len: int
    progress: Progress

    def find(self, variant: Variant, compute: str) -> Path:
        """Return the file of a graph that computes so."""
        here = Path(__file__).parent
        weights = self.source.weights
        formats = {name: found.format.name for name in weights.names() if (found := weights.find(name))}
        options = {
            "compute": compute, "max_len": self.max_len, "model_type": self.model_type, "variant": variant.value,
            "formats": formats, **self.options(),
        }  # fmt: skip
        content = self.cache.content_digest(self.source.files, self.progress)
        key = entry_key(content, options, [here / name for name in _SOURCES])
        return self.cache.find_or_build(key, lambda folder: self._build(variant, compute, folder))

    def _build(self, variant: Variant, compute: str, folder: Path) -> None:
        self.progress(Stage.BUILD, 0.0)
        from narthex_server.graph.builder import Compute, GraphBuilder

        graph = GraphBuilder(self.model_type, Compute(compute))
        heard = replace(self.source, weights=HeardWeights(self.source.weights, self.progress))
        replace(self, source=heard).add(graph, variant)
        graph.save(folder / GRAPH, WEIGHTS)

    def options(self) -> Mapping[str, object]:
        """What else a graph depends on."""
        return {}

    @abstractmethod
    def add(self, graph: "GraphBuilder", variant: Variant) -> None:
        """Add every node of a graph."""


def settle(wanted: str, weights: WeightSource) -> tuple[str, str]:
    """Settle `auto` for the CPU, and name the format that holds most of the weights.

    Errors: NotOnDevice for a compute that only GPUs have.
    """
    if wanted in HALF:
        raise NotOnDevice(f"compute {wanted} needs a GPU; choose {', '.join(COMPUTE)} or another device")
    if wanted not in COMPUTE:
        raise ValueError(f"compute {wanted!r} is none of {', '.join(COMPUTE)}")
    sizes: dict[str, int] = {}
    packable = False
    for name in weights.names():
        if (tensor := weights.find(name)) is not None:
            sizes[tensor.format.name] = sizes.get(tensor.format.name, 0) + tensor.size
            packable = packable or tensor.format.packing is not None
    main = max(sizes, key=lambda name: sizes[name], default="none")
    return (("block8" if packable else "float32") if wanted == "auto" else wanted), main


def parameters(weights: WeightSource) -> int:
    return sum(tensor.size for name in weights.names() if (tensor := weights.find(name)) is not None)


def check_memory(weights: WeightSource) -> None:
    """Errors: ResourceExhausted where not even the weights, as they are stored, have room."""
    check_room(sum(tensor.nbytes for name in weights.names() if (tensor := weights.find(name)) is not None))


@contextmanager
def graph_cache(folder: Path | None) -> Iterator[GraphCache]:
    """Use the cache in a folder, or one that lasts as long as the block where that cannot be written to."""
    with ExitStack() as stack:
        root = _usable(folder) or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="narthex-")))
        yield GraphCache(root)


def _usable(folder: Path | None) -> Path | None:
    """Make the folder; None where it cannot be written to, which costs time at the next start, no more."""
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _log.warning("graphs are not cached: %s", error)
        return None
    if not os.access(folder, os.W_OK):
        _log.warning("graphs are not cached: %s is not writable", folder)
        return None
    return folder
