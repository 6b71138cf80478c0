"""From a model folder or file to a session that runs it."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile, NotFound
from narthex_server.models import families
from narthex_server.runtime.cache import GRAPH, WEIGHTS, GraphCache, entry_key
from narthex_server.runtime.session import DecoderSession, OrtDecoderSession
from narthex_server.text.assets import TextAssets
from narthex_server.weights.gguf_decoder import GgufWeights, huggingface_config, huggingface_type
from narthex_server.weights.gguf_model import models_among, open_gguf
from narthex_server.weights.safetensors import SafetensorsFolder, weight_files
from narthex_server.weights.tensors import WeightSource

_log = logging.getLogger(__name__)
COMPUTE = ("auto", "float32", "block8")
_SOURCES = ("graph", "models", "weights")


def default_cache() -> Path:
    """Where built graphs are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narthex"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load: `compute` is auto, float32 or block8; `threads` 0 is one per core; `cache_dir` None keeps no graph.

    A slot holds `max_context` tokens, or as many as the model can take where that is fewer.
    """

    compute: str = "auto"
    threads: int = 0
    slots: int = 8
    max_context: int = 8192
    cache_dir: Path | None = field(default_factory=default_cache)


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
    """Load a Hugging Face folder or a GGUF file.

    NotFound where there is nothing at `path`, InvalidModelFile where what is there is broken or of an unsupported kind.
    """
    source = open_model(path)
    model_type = str(source.config.get("model_type"))
    families.check(model_type)
    compute, quantization = _compute(options.compute, source.weights)
    max_len = min(int(source.config.get("max_position_embeddings") or options.max_context), options.max_context)
    text = source.text()
    with ExitStack() as stack:
        root = _usable(options.cache_dir) or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="narthex-")))
        graph = _graph(GraphCache(root), source, model_type, compute, max_len)
        threads = options.threads or _cores()
        session = OrtDecoderSession(graph, slots=options.slots, max_len=max_len, threads=threads)
    return LoadedModel(
        model_type, session, text, max_len, session.vocab_size, _parameters(source.weights),
        compute, quantization,
    )  # fmt: skip


def open_model(path: Path) -> ModelFiles:
    """Look at a path and read what describes the model there."""
    if not path.exists():
        raise NotFound(f"there is no model at {path}")
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if (path / "config.json").is_file():
        return _open_folder(path)
    if len(inside := models_among(sorted(path.glob("*.gguf")))) == 1:
        return _open_gguf(inside[0])
    if inside:
        raise InvalidModelFile(f"{path} holds {len(inside)} GGUF files: name one, for example {inside[0]}")
    raise InvalidModelFile(f"{path} is neither a GGUF file nor a folder with config.json and safetensors")


def _open_folder(folder: Path) -> ModelFiles:
    config = _read_json(folder / "config.json")
    if "model_type" not in config:
        raise InvalidModelFile(f"{folder / 'config.json'}: model_type is missing")
    families.check(str(config["model_type"]))
    if method := (config.get("quantization_config") or {}).get("quant_method"):
        raise InvalidModelFile(
            f"{folder}: weights quantised by {method} are not supported; use a GGUF file of the model"
        )
    files = (folder / "config.json", *weight_files(folder))
    return ModelFiles(config, SafetensorsFolder(folder), files, lambda: TextAssets.from_folder(folder))


def _open_gguf(path: Path) -> ModelFiles:
    model = open_gguf(path)
    families.check(huggingface_type(model))
    config = huggingface_config(model)
    return ModelFiles(config, GgufWeights(model), model.paths, lambda: TextAssets.from_gguf(model.metadata))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path}: not a JSON object")
    return value


def _compute(wanted: str, weights: WeightSource) -> tuple[str, str]:
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


def _parameters(weights: WeightSource) -> int:
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


def _cores() -> int:
    """Count the cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _graph(cache: GraphCache, source: ModelFiles, model_type: str, compute: str, max_len: int) -> Path:
    """Find the graph in the cache or build it; what builds takes half a second to import, so only then."""

    def build(folder: Path) -> None:
        from narthex_server.graph.builder import Compute, GraphBuilder

        family = families.family(model_type)
        graph = GraphBuilder(model_type, Compute(compute))
        family.build(family.config(source.config), source.weights, graph, max_len)
        graph.save(folder / GRAPH, WEIGHTS)

    here = Path(__file__).parent
    options = {"compute": compute, "max_len": max_len, "model_type": model_type}
    key = entry_key(cache.content_digest(source.files), options, [here / name for name in _SOURCES])
    return cache.find_or_build(key, build)
