"""From a model folder to an encoder that makes vectors of texts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narthex_server.documents import read_object
from narthex_server.embedding.folder import EmbedderFolder, describes_embedder, number
from narthex_server.embedding.head import Head, Pooling
from narthex_server.embedding.session import EncoderSession
from narthex_server.errors import InvalidModelFile, NotOnDevice
from narthex_server.graphs import Graphs, Variant, check_memory, graph_cache, parameters, settle
from narthex_server.loading import LoadOptions, cores
from narthex_server.models import families
from narthex_server.models.families import Task
from narthex_server.opening import check_unquantised, open_model, quantising, tokenizer_folder
from narthex_server.progress import Stage
from narthex_server.runtime.allocation import allocating
from narthex_server.runtime.encoder import OnnxEncoderSession, OrtEncoderSession
from narthex_server.text.tokenizer import Tokenizer
from narthex_server.weights.headless import Headless
from narthex_server.weights.onnx_file import OnnxFile
from narthex_server.weights.onnx_folder import find_graph, weights_in
from narthex_server.weights.safetensors import INDEX, SINGLE

if TYPE_CHECKING:
    from narthex_server.graph.builder import GraphBuilder

_WHOLE_BATCH = "DynamicQuantize"
"""Operators whose names begin so scale a whole batch by its largest value."""

_BIDIRECTIONAL = "use_bidirectional_attention"
"""The field of a config whose tokens see all of their text though the family is a decoder's."""


@dataclass(frozen=True, slots=True)
class LoadedEmbedder:
    """An embedder that is ready to run; `prompts` are the instructions that its author gives, by name."""

    model_type: str
    session: EncoderSession
    head: Head
    tokenizer: Tokenizer
    lower_case: bool
    prompts: Mapping[str, str]
    vocab_size: int
    parameters: int
    compute: str
    quantization: str
    device: str = "cpu"


def is_embedder(path: Path) -> bool:
    """Whether what is at `path` makes vectors rather than text: by its modules, else by its family or architecture."""
    if not path.is_dir() and not (path.is_file() and path.suffix == ".onnx"):
        return False
    folder = _folder(path)
    if describes_embedder(folder):
        return True
    config = read_object(folder / "config.json", optional=True)
    headless = any(name.endswith("Model") and not name.endswith("LMHeadModel") for name in _architectures(config))
    return headless or families.only_encodes(str(config.get("model_type")))


@allocating()
def load_embedder(path: Path, options: LoadOptions) -> LoadedEmbedder:
    """Load a folder of sentence-transformers or of a plain encoder, or one of its ONNX files.

    Safetensors of a known family are preferred to an ONNX file beside them. Errors: InvalidModelFile, NotFound for a
    tokenizer, InvalidRequest where an ONNX file is to be quantised, NotOnDevice where it is to run on a GPU,
    ResourceExhausted for too little memory.
    """
    options.progress(Stage.READ, 0.0)
    if options.device.startswith("cuda"):
        raise NotOnDevice(f"{path}: embedders run on the CPU alone; choose the device auto or cpu")
    if options.xlora is not None:
        raise InvalidModelFile(f"{options.xlora}: an X-LoRA needs a model that generates text, {path} makes embeddings")
    folder = _folder(path)
    layout = EmbedderFolder.read(folder)
    config = read_object(layout.encoder / "config.json", optional=True)
    model_type = str(config.get("model_type"))
    for name in _architectures(config):
        if name.endswith(("Classification", "QuestionAnswering")):
            raise InvalidModelFile(f"{folder}: {name} classifies texts, it makes no vectors of them")
    text = tokenizer_folder(options.tokenizer) or layout.encoder
    tokenizer_config = read_object(text / "tokenizer_config.json", optional=True)
    limits = (
        layout.max_tokens, number(config, "max_position_embeddings"), number(tokenizer_config, "model_max_length"),
        options.max_context,
    )  # fmt: skip
    max_tokens = min(filter(None, limits))
    tokenizer = Tokenizer.from_folder(text, _with_own_frame(tokenizer_config))
    graph = path if path.is_file() else _exported(layout.encoder, model_type)
    encoder = _build(layout.encoder, max_tokens, options) if graph is None else _open(graph, max_tokens, options)
    layout.check(encoder.session.hidden_size)
    return LoadedEmbedder(
        model_type, encoder.session, Head(layout.pooling or _usual_pooling(config), layout.dense), tokenizer,
        layout.lower_case, layout.prompts, number(config, "vocab_size") or tokenizer.size, encoder.parameters,
        encoder.compute, encoder.quantization,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Encoder:
    session: EncoderSession
    compute: str
    quantization: str
    parameters: int


def _build(folder: Path, max_len: int, options: LoadOptions) -> _Encoder:
    """From weights, by a graph of our own."""
    source = quantising(open_model(folder, Task.ENCODE), options.quantize, options.topology)
    source = replace(source, weights=Headless(source.weights))
    compute, quantization = settle(options.compute, source.weights)
    check_memory(source.weights)
    with graph_cache(options.cache_dir) as cache:
        model_type = str(source.config["model_type"])
        graphs = _EncoderGraphs(cache, source, model_type, max_len, options.progress)
        graph = graphs.find(Variant.ENCODER, compute)
        options.progress(Stage.START, 0.0)
        session = OrtEncoderSession(graph, max_len=max_len, threads=options.threads or cores())
    return _Encoder(session, compute, quantization, parameters(source.weights))


def _open(graph: Path, max_len: int, options: LoadOptions) -> _Encoder:
    """A graph that somebody exported: how it computes is settled in it."""
    check_unquantised(graph, options.quantize, options.topology)
    file = OnnxFile(graph)
    options.progress(Stage.START, 0.0)
    alone = any(node.operator.startswith(_WHOLE_BATCH) for node in file.nodes)
    session = OnnxEncoderSession(graph, alone=alone, max_len=max_len, threads=options.threads or cores())
    count, quantization = weights_in(file)
    return _Encoder(session, "onnx", quantization, count)


def _folder(path: Path) -> Path:
    """The model's folder: `path` itself, or the one that holds an ONNX file, perhaps in a folder of its own."""
    if path.is_dir():
        return path
    beside = (path.parent, path.parent.parent)
    return next((folder for folder in beside if (folder / "config.json").is_file()), path.parent)


def _architectures(config: Mapping[str, Any]) -> list[str]:
    names = config.get("architectures")
    return [str(name) for name in names] if isinstance(names, list) else []


def _with_own_frame(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tokenizer's config without the flags that its class does not heed, so that tokenizer.json frames its texts."""
    generic = config.get("tokenizer_class") == "PreTrainedTokenizerFast"
    return {
        name: value for name, value in config.items() if not generic or name not in ("add_bos_token", "add_eos_token")
    }


def _exported(folder: Path, model_type: str) -> Path | None:
    """The ONNX file to run: none where there are weights of a family that is built here."""
    weights = any((folder / name).is_file() for name in (SINGLE, INDEX))
    if weights and families.is_supported(model_type, Task.ENCODE):
        return None
    return find_graph(folder)


def _usual_pooling(config: Mapping[str, Any]) -> Pooling:
    """What a model that says nothing was most likely trained with: only a causal one's last token has seen the text."""
    causal = families.is_supported(str(config.get("model_type"))) and not config.get(_BIDIRECTIONAL)
    return Pooling.LAST if causal else Pooling.MEAN


class _EncoderGraphs(Graphs):
    """Those of a model that encodes whole texts."""

    def add(self, graph: "GraphBuilder", variant: Variant) -> None:
        import onnx_ir as ir

        from narthex_server.graph.adapters import NoAdapters
        from narthex_server.graph.whole import CausalAttention, FullAttention

        family = families.family(self.model_type, Task.ENCODE)
        tokens = graph.input("tokens", ir.DataType.INT64, ("batch", "length"))
        full = families.only_encodes(self.model_type) or self.source.config.get(_BIDIRECTIONAL)
        attention = (FullAttention if full else CausalAttention)(graph, self.max_len)
        config = family.config(self.source.config)
        family.model(config, self.source.weights, graph, attention, NoAdapters()).encode(tokens)
