"""From a model folder or file to a session that runs it."""

import json
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from narthex_server.engine.decoder import DecoderSession
from narthex_server.errors import InvalidModelFile, InvalidRequest, NotFound
from narthex_server.models import families
from narthex_server.models.families import Task
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.runtime.cache import GRAPH, WEIGHTS, GraphCache, entry_key
from narthex_server.runtime.foreign.choice import open_foreign
from narthex_server.runtime.session import OrtDecoderSession, Shape
from narthex_server.runtime.xlora import Classifier, XLoraSession
from narthex_server.text.assets import TextAssets
from narthex_server.weights import awq, fp8, gptq, packed
from narthex_server.weights.gguf_decoder import GgufWeights, huggingface_config
from narthex_server.weights.gguf_model import models_among, open_gguf
from narthex_server.weights.kinds import kind_named
from narthex_server.weights.onnx_folder import find_graph, read_onnx
from narthex_server.weights.quantised import QuantisedWeights
from narthex_server.weights.safetensors import INDEX, SINGLE, SafetensorsFolder, weight_files
from narthex_server.weights.scheme import Scheme
from narthex_server.weights.tensors import WeightSource
from narthex_server.weights.topology import EMPTY, Topology
from narthex_server.weights.xlora import read_xlora

if TYPE_CHECKING:
    from narthex_server.graph.builder import GraphBuilder

_log = logging.getLogger(__name__)
COMPUTE = ("auto", "float32", "block8")
_SOURCES = ("graph", "models", "weights")
_QUANTISERS: Mapping[str, Callable[[WeightSource, Mapping[str, Any]], WeightSource]] = MappingProxyType(
    {
        packed.METHOD: packed.PackedWeights,
        gptq.METHOD: gptq.GptqWeights,
        awq.METHOD: awq.AwqWeights,
        fp8.METHOD: fp8.Float8Weights,
    }
)


def default_cache() -> Path:
    """Where built graphs are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narthex"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load: `compute` is auto, float32 or block8; `threads` 0 is one per core; `cache_dir` None keeps no graph.

    A slot holds `max_context` tokens, or as many as the model can take where that is fewer. With `adapters` the model
    is loaded a second time with room for them, for the steps that use one. `xlora` is the folder of an X-LoRA on top of
    the model, whose scalings stay as they are after `xlora_frozen_after` generated tokens (0 is never).
    `quantize` names a format for the weights of a model that is not quantised, `topology` a file with others for some.
    """

    compute: str = "auto"
    threads: int = 0
    slots: int = 8
    max_context: int = 8192
    cache_dir: Path | None = field(default_factory=default_cache)
    adapters: Limits | None = None
    xlora: Path | None = None
    xlora_frozen_after: int = 0
    quantize: str | None = None
    topology: Path | None = None


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run; `quantization` is the format of most of its weights."""

    model_type: str
    session: DecoderSession
    text: TextAssets
    max_context: int
    vocab_size: int
    parameters: int
    compute: str
    quantization: str


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model folder or file holds, with a config in Hugging Face's spelling whatever the file's own is."""

    config: Mapping[str, Any]
    weights: WeightSource
    files: tuple[Path, ...]
    text: Callable[[], TextAssets]


def load(path: Path, options: LoadOptions) -> LoadedModel:
    """Load a Hugging Face folder, a GGUF file, or a decoder graph: an .onnx file or a folder that has one.

    NotFound where there is nothing at `path`, InvalidModelFile where what is there is broken or of an unsupported kind,
    InvalidRequest where it is to be quantised and is so already, or the topology cannot be used.
    """
    if (graph := _foreign_graph(path)) is not None:
        return _load_foreign(graph, options)
    source = quantising(open_model(path), options.quantize, options.topology)
    model_type = str(source.config.get("model_type"))
    families.check(model_type)
    compute, quantization = settle(options.compute, source.weights)
    max_len = min(int(source.config.get("max_position_embeddings") or options.max_context), options.max_context)
    text = source.text()
    with graph_cache(options.cache_dir) as cache:
        graphs = _DecoderGraphs(cache, source, model_type, compute, max_len)
        session = _session(graphs, Shape(options.slots, max_len, options.threads or cores()), options)
    return LoadedModel(
        model_type, session, text, max_len, session.vocab_size, parameters(source.weights),
        compute, quantization,
    )  # fmt: skip


def _foreign_graph(path: Path) -> Path | None:
    """Find the graph that is to be run as it is; weights of which we build our own win over it."""
    if path.is_dir() and any((path / name).is_file() for name in (SINGLE, INDEX)):
        if any(path.glob("*.onnx")) or any(path.glob("onnx/*.onnx")):
            _log.info("%s has safetensors and ONNX graphs: the graph is built from the safetensors", path)
        return None
    return find_graph(path) if path.exists() else None


def _load_foreign(graph: Path, options: LoadOptions) -> LoadedModel:
    """Serve somebody else's graph: how it computes is settled, and it has no room for adapters."""
    model = read_onnx(graph)
    if options.xlora is not None:
        raise InvalidModelFile(f"{options.xlora}: an X-LoRA needs the model's safetensors or GGUF, not {graph}")
    if options.quantize is not None or options.topology is not None:
        raise InvalidRequest(f"{graph}: the weights of an ONNX graph stay as they were exported; leave quantize unset")
    if options.compute != "auto":
        _log.warning("%s computes as it was exported, not in %s", graph, options.compute)
    max_len = min(model.context or options.max_context, options.max_context)
    text = TextAssets.from_folder(model.folder)
    session = open_foreign(graph, model.ports, Shape(options.slots, max_len, options.threads or cores()))
    compute = f"onnx, {'batched' if session.batched else 'one at a time'}"
    _log.info("%s: %s of weights in %s; %s", graph, model.model_type, model.quantization, compute)
    return LoadedModel(
        model.model_type, session, replace(text, eos_ids=text.eos_ids | model.eos_ids), max_len, session.vocab_size,
        model.parameters, compute, model.quantization,
    )  # fmt: skip


def open_model(path: Path, task: Task = Task.GENERATE) -> ModelFiles:
    """Look at a path and read what describes the model there, which must be of a family that can do the task."""
    if not path.exists():
        raise NotFound(f"there is no model at {path}")
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if (path / "config.json").is_file():
        return _open_folder(path, task)
    if len(inside := models_among(sorted(path.glob("*.gguf")))) == 1:
        return _open_gguf(inside[0])
    if inside:
        raise InvalidModelFile(f"{path} holds {len(inside)} GGUF files: name one, for example {inside[0]}")
    raise InvalidModelFile(f"{path} is neither a GGUF file nor a folder with config.json and safetensors")


def quantising(source: ModelFiles, quantize: str | None, topology: Path | None) -> ModelFiles:
    """The same model with its weights quantised as they are asked for; unchanged where neither is given."""
    if quantize is None and topology is None:
        return source
    try:
        kind = quantize and kind_named(quantize)
    except ValueError as error:
        raise InvalidRequest(f"quantize: {quantize!r} {error}") from error
    scheme = Scheme(kind, Topology.read(topology) if topology else EMPTY)
    return replace(source, weights=QuantisedWeights(source.weights, scheme))


def _open_folder(folder: Path, task: Task) -> ModelFiles:
    config = _read_json(folder / "config.json")
    if "model_type" not in config:
        raise InvalidModelFile(f"{folder / 'config.json'}: model_type is missing")
    families.check(str(config["model_type"]), task)
    files = (folder / "config.json", *weight_files(folder))
    weights = _quantised_by(config, folder) or SafetensorsFolder(folder)
    return ModelFiles(config, weights, files, lambda: TextAssets.from_folder(folder))


def _quantised_by(config: Mapping[str, Any], folder: Path) -> WeightSource | None:
    """The weights of a folder that was quantised before it came here; None where it was not."""
    quantization = config.get("quantization_config") or {}
    if not isinstance(quantization, dict):
        raise InvalidModelFile(f"{folder / 'config.json'}: quantization_config is no object")
    if (method := quantization.get("quant_method")) is None:
        return None
    if method not in tuple(_QUANTISERS):
        raise InvalidModelFile(
            f"{folder}: weights quantised by {method} are not supported; supported are {', '.join(_QUANTISERS)}, "
            "and GGUF files"
        )
    return _QUANTISERS[method](SafetensorsFolder(folder), quantization)


def _open_gguf(path: Path) -> ModelFiles:
    file = open_gguf(path)
    families.check(str(file.metadata.get("general.architecture")))
    config = huggingface_config(file)
    return ModelFiles(config, GgufWeights(file, config), file.paths, lambda: TextAssets.from_gguf(file.metadata))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path}: not a JSON object")
    return value


def settle(wanted: str, weights: WeightSource) -> tuple[str, str]:
    """Settle `auto`, and name the format that holds most of the weights."""
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


def cores() -> int:
    """Count the cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def graph_cache(folder: Path | None) -> Iterator[GraphCache]:
    """Use the cache in a folder, or one that lasts as long as the block where that cannot be written to."""
    with ExitStack() as stack:
        root = _usable(folder) or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="narthex-")))
        yield GraphCache(root)


class Variant(Enum):
    """What a graph is built for: generating, also with adapters or the states that X-LoRA reads too, or encoding."""

    PLAIN = "plain"
    ADAPTED = "adapted"
    XLORA = "xlora"
    ENCODER = "encoder"


@dataclass(frozen=True, slots=True)
class Graphs(ABC):
    """The graphs of one model, from the cache or built; what builds takes half a second to import, so only then."""

    cache: GraphCache
    source: ModelFiles
    model_type: str
    compute: str
    max_len: int

    def find(self, variant: Variant) -> Path:
        """Return the file of a graph."""
        here = Path(__file__).parent
        weights = self.source.weights
        formats = {name: found.format.name for name in weights.names() if (found := weights.find(name))}
        options = {
            "compute": self.compute, "max_len": self.max_len, "model_type": self.model_type, "variant": variant.value,
            "formats": formats,
        }  # fmt: skip
        key = entry_key(self.cache.content_digest(self.source.files), options, [here / name for name in _SOURCES])
        return self.cache.find_or_build(key, lambda folder: self._build(variant, folder))

    def _build(self, variant: Variant, folder: Path) -> None:
        from narthex_server.graph.builder import Compute, GraphBuilder

        graph = GraphBuilder(self.model_type, Compute(self.compute))
        self.add(graph, variant)
        graph.save(folder / GRAPH, WEIGHTS)

    @abstractmethod
    def add(self, graph: "GraphBuilder", variant: Variant) -> None:
        """Add every node of a graph."""


class _DecoderGraphs(Graphs):
    """Those of a model that generates."""

    def add(self, graph: "GraphBuilder", variant: Variant) -> None:
        import onnx_ir as ir

        from narthex_server.graph.adapters import LowRankAdapters, NoAdapters
        from narthex_server.graph.attention import CachedAttention

        family = families.family(self.model_type)
        config = family.config(self.source.config)
        tokens = graph.input("tokens", ir.DataType.INT64, ("batch", "length"))
        adapters = NoAdapters() if variant is Variant.PLAIN else LowRankAdapters(graph, tokens)
        attention = CachedAttention(graph, self.max_len)
        states = family.model(config, self.source.weights, graph, attention, adapters).generate(tokens)
        if variant is Variant.XLORA:
            graph.output(states, "hidden", ir.DataType.FLOAT, ("rows", config.hidden))


def _session(graphs: Graphs, shape: Shape, options: LoadOptions) -> DecoderSession:
    if options.xlora is None:
        adapted = graphs.find(Variant.ADAPTED) if options.adapters else None
        return OrtDecoderSession(graphs.find(Variant.PLAIN), shape, adapted, options.adapters or Limits())
    files = read_xlora(options.xlora)
    classifier = Classifier.parse(files.fields, files.layers, files.modules, len(files.experts))
    return XLoraSession(graphs.find(Variant.XLORA), shape, classifier, files.experts, options.xlora_frozen_after)
