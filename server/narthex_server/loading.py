"""From a model folder or file to a session that runs it."""

import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narthex_server.calibration import peaks
from narthex_server.cuda import PagedGraphs, open_paged
from narthex_server.cuda import settle as settle_cuda
from narthex_server.engine.decoder import DecoderSession
from narthex_server.errors import InvalidModelFile, NotOnDevice, ResourceExhausted
from narthex_server.graph.peaks import Peaks
from narthex_server.graphs import Graphs, Variant, check_memory, graph_cache, parameters, settle
from narthex_server.models import families
from narthex_server.opening import check_unquantised, open_model, quantising, tokenizer_folder
from narthex_server.progress import Progress, Stage, unheard
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.runtime.allocation import allocating
from narthex_server.runtime.device import Cpu, Cuda, Device, choose
from narthex_server.runtime.foreign.choice import open_foreign
from narthex_server.runtime.session import OrtDecoderSession, Shape
from narthex_server.runtime.xlora import Classifier, XLoraSession
from narthex_server.text.assets import TextAssets
from narthex_server.weights.onnx_folder import find_graph, read_onnx
from narthex_server.weights.safetensors import INDEX, SINGLE
from narthex_server.weights.xlora import read_xlora

if TYPE_CHECKING:
    from narthex_server.graph.builder import GraphBuilder

_log = logging.getLogger(__name__)


def default_cache() -> Path:
    """Where built graphs are kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narthex"


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load: `device` is auto, cpu, cuda or cuda:N.

    `compute` is auto, on the CPU float32, block8 or int8, on a GPU float16 or bfloat16. `kv` is what the CPU keeps keys
    and values as, float32 or int8. `threads` 0 is one per core; `cache_dir` None keeps no graph. A slot holds
    `max_context` tokens, or as many as the model can take where that is fewer. With `adapters` the model is loaded a
    second time with room for them, for the steps that use one. `xlora` is the folder of an X-LoRA on top of the model,
    whose scalings stay as they are after `xlora_frozen_after` generated tokens (0 is never). `quantize` names a format
    for the weights of a model that is not quantised, `topology` a file with others for some. `tokenizer` is a folder
    whose tokenizer and template are used instead of the model's own. `progress` is told how far the loading is.
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
    tokenizer: Path | None = None
    progress: Progress = unheard
    device: str = "cpu"
    kv: str = "float32"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that is ready to run on `device`; `quantization` is the format of most of its weights."""

    model_type: str
    session: DecoderSession
    text: TextAssets
    max_context: int
    vocab_size: int
    parameters: int
    compute: str
    quantization: str
    device: str = "cpu"


@allocating()
def load(path: Path, options: LoadOptions) -> LoadedModel:
    """Load a Hugging Face folder, a GGUF or GGML file, or a decoder graph: an .onnx file or a folder that has one.

    NotFound where there is nothing at `path`, InvalidModelFile where what is there is broken or of an unsupported kind,
    InvalidRequest where it is to be quantised and is so already, or the topology cannot be used. NotOnDevice where the
    device is missing or cannot run the model in this way, and ResourceExhausted where there is not enough memory; of a
    GPU both mean the CPU where the device is `auto`.
    """
    options.progress(Stage.READ, 0.0)
    device = choose(options.device)
    if isinstance(device, Cuda):
        try:
            return _load(path, options, device)
        except (NotOnDevice, ResourceExhausted) as reason:
            if options.device != "auto":
                raise
            _log.warning("%s runs on the CPU: %s", path, reason.message)
    return _load(path, options, Cpu())


def _load(path: Path, options: LoadOptions, device: Device) -> LoadedModel:
    if isinstance(device, Cuda) and (options.adapters is not None or options.xlora is not None):
        raise NotOnDevice("adapters run on the CPU alone; leave them out, or choose the device cpu")
    if isinstance(device, Cuda) and options.kv != "float32":
        raise NotOnDevice("caches of int8 are for the CPU alone; leave out --kv-cache, or choose the device cpu")
    if (graph := _foreign_graph(path)) is not None:
        if isinstance(device, Cuda):
            raise NotOnDevice(f"{graph}: graphs that others built run on the CPU alone; choose the device cpu")
        return _load_foreign(graph, options)
    source = quantising(open_model(path, tokenizer=options.tokenizer), options.quantize, options.topology)
    model_type = str(source.config.get("model_type"))
    families.check(model_type)
    if isinstance(device, Cuda):
        compute, (_, quantization) = settle_cuda(options.compute, device), settle("auto", source.weights)
    else:
        exact = options.xlora is not None and options.compute == "int8"
        compute, quantization = settle("auto" if exact else options.compute, source.weights)
        if options.xlora is not None and (exact or options.kv != "float32"):
            _log.warning("%s: with an X-LoRA the model computes as %s with caches of float32", options.xlora, compute)
        check_memory(source.weights)
        if compute == "int8":
            _log.warning("%s: compute int8 rounds the weights once more; docs/models.md says what that costs", path)
    max_len = _context(source.config, options.max_context)
    # ONNX Runtime starts a session on one core and without Python's lock; a large vocabulary takes as long.
    with ThreadPoolExecutor(1) as beside, graph_cache(options.cache_dir) as kept:
        reading = beside.submit(source.text)

        def progress(stage: Stage, fraction: float) -> None:
            if stage is Stage.BUILD:
                reading.result()  # nothing is built for a tokenizer that turns out to be broken
            options.progress(stage, fraction)

        given = (kept, source, model_type, max_len, progress)
        shape = Shape(
            options.slots, max_len, options.threads or cores(), options.kv == "int8" and options.xlora is None
        )
        if isinstance(device, Cuda):
            session: DecoderSession = open_paged(PagedGraphs(*given), compute, shape, device)
        else:
            session = _session(_DecoderGraphs(*given), compute, shape, options, reading.result)
        text = reading.result()
    vocab = int(source.config.get("vocab_size") or 0)
    if text.tokenizer.size > vocab > 0:
        _log.warning("%s: the tokenizer has %d tokens, the model %d: is it its own?", path, text.tokenizer.size, vocab)
    return LoadedModel(
        model_type, session, text, max_len, session.vocab_size, parameters(source.weights),
        compute, quantization, str(device),
    )  # fmt: skip


def _context(config: Mapping[str, Any], most: int) -> int:
    """How many tokens a slot holds; models with a tower say so among the fields of their language model."""
    inner = config.get("text_config")
    longest = (inner if isinstance(inner, dict) else config).get("max_position_embeddings") or most
    if type(longest) is not int or longest < 1:
        raise InvalidModelFile(f"config: max_position_embeddings is {longest!r}, not a number of tokens")
    return min(longest, most)


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
    check_unquantised(graph, options.quantize, options.topology)
    if options.compute != "auto" or options.kv != "float32":
        _log.warning("%s computes as it was exported, not in %s with caches of %s", graph, options.compute, options.kv)
    max_len = min(model.context or options.max_context, options.max_context)
    text = TextAssets.from_folder(tokenizer_folder(options.tokenizer) or model.folder)
    options.progress(Stage.START, 0.0)
    session = open_foreign(graph, model.ports, Shape(options.slots, max_len, options.threads or cores()))
    compute = f"onnx, {'batched' if session.batched else 'one at a time'}"
    _log.info("%s: %s of weights in %s; %s", graph, model.model_type, model.quantization, compute)
    return LoadedModel(
        model.model_type, session, replace(text, eos_ids=text.eos_ids | model.eos_ids), max_len, session.vocab_size,
        model.parameters, compute, model.quantization,
    )  # fmt: skip


def cores() -> int:
    """Count the cores that this process may use, which in a container are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class _DecoderGraphs(Graphs):
    """Those of a model that generates; its caches are int8 where `peaks` makes known how large their values become."""

    peaks: Callable[[], Mapping[int, Peaks]] | None = None

    def options(self) -> Mapping[str, object]:
        return {"kv": "float32" if self.peaks is None else "int8"}

    def add(self, graph: "GraphBuilder", variant: Variant) -> None:
        import onnx_ir as ir

        from narthex_server.graph.adapters import LowRankAdapters, NoAdapters
        from narthex_server.graph.attention import CachedAttention

        family = families.family(self.model_type)
        config = family.config(self.source.config)
        tokens = graph.input("tokens", ir.DataType.INT64, ("batch", "length"))
        adapters = (
            NoAdapters()
            if variant in (Variant.PLAIN, Variant.WIDE)
            else LowRankAdapters(graph, tokens, apart=variant is Variant.XLORA)
        )
        attention = CachedAttention(graph, self.max_len, self.peaks() if self.peaks else None)
        states = family.model(config, self.source.weights, graph, attention, adapters).generate(tokens)
        if variant is Variant.XLORA:
            graph.output(states, "hidden", ir.DataType.FLOAT, ("rows", config.hidden))


def _session(
    graphs: _DecoderGraphs, compute: str, shape: Shape, options: LoadOptions, text: Callable[[], TextAssets]
) -> DecoderSession:
    narrow = settle("auto", graphs.source.weights)[0] if compute == "int8" else compute
    if options.xlora is not None:
        return _xlora_session(graphs, compute, shape, options, options.xlora)
    if options.kv == "int8":
        graphs = replace(graphs, peaks=cache(partial(_peaks, graphs, narrow, shape, text)))
    plain = graphs.find(Variant.PLAIN, narrow)
    wide = graphs.find(Variant.WIDE, compute) if narrow != compute else None
    adapted = graphs.find(Variant.ADAPTED, narrow) if options.adapters else None
    options.progress(Stage.START, 0.0)
    return OrtDecoderSession(plain, shape, adapted, options.adapters or Limits(), wide)


def _xlora_session(
    graphs: _DecoderGraphs, compute: str, shape: Shape, options: LoadOptions, folder: Path
) -> XLoraSession:
    files = read_xlora(folder)
    classifier = Classifier.parse(files.fields, files.layers, files.modules, len(files.experts))
    graph = graphs.find(Variant.XLORA, compute)
    options.progress(Stage.START, 0.0)
    return XLoraSession(graph, shape, classifier, files.experts, options.xlora_frozen_after)


def _peaks(graphs: _DecoderGraphs, compute: str, shape: Shape, text: Callable[[], TextAssets]) -> Mapping[int, Peaks]:
    """What a session with caches of float32 finds; it is gone before the one with caches of int8 is there."""
    plain = graphs.find(Variant.PLAIN, compute)
    session = OrtDecoderSession(plain, replace(shape, slots=1, int8_cache=False))
    try:
        return peaks(session, text().tokenizer)
    finally:
        session.close()
