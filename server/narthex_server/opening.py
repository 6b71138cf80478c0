"""What a model folder or file holds, in Hugging Face's spelling whatever its own is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from narthex_server.documents import read_object
from narthex_server.errors import InvalidModelFile, InvalidRequest, NotFound
from narthex_server.models import families
from narthex_server.models.families import Task
from narthex_server.text.assets import TextAssets
from narthex_server.weights import awq, fp8, gptq, mxfp4, packed
from narthex_server.weights.ggml import Unsaid, is_ggml, open_ggml
from narthex_server.weights.gguf_decoder import GgufWeights, huggingface_config, huggingface_type
from narthex_server.weights.gguf_model import models_among, open_gguf
from narthex_server.weights.kinds import kind_named
from narthex_server.weights.quantised import QuantisedWeights
from narthex_server.weights.safetensors import SafetensorsFolder, weight_files
from narthex_server.weights.scheme import Scheme
from narthex_server.weights.tensors import WeightSource
from narthex_server.weights.topology import EMPTY, Topology

_QUANTISERS: Mapping[str, Callable[[WeightSource, Mapping[str, Any]], WeightSource]] = MappingProxyType(
    {
        packed.METHOD: packed.PackedWeights,
        gptq.METHOD: gptq.GptqWeights,
        awq.METHOD: awq.AwqWeights,
        fp8.METHOD: fp8.Float8Weights,
        mxfp4.METHOD: mxfp4.Mxfp4Weights,
    }
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model folder or file holds, with a config in Hugging Face's spelling whatever the file's own is."""

    config: Mapping[str, Any]
    weights: WeightSource
    files: tuple[Path, ...]
    text: Callable[[], TextAssets]


def open_model(path: Path, task: Task = Task.GENERATE, tokenizer: Path | None = None) -> ModelFiles:
    """Look at a path and read what describes the model there, which must be of a family that can do the task.

    With `tokenizer` the tokenizer, template and defaults are those of that folder.
    """
    tokenizer = tokenizer_folder(tokenizer)
    files = _open(path, task, tokenizer)
    return replace(files, text=lambda: TextAssets.from_folder(tokenizer)) if tokenizer else files


def tokenizer_folder(named: Path | None) -> Path | None:
    """The folder whose tokenizer goes before the model's own, as it is named. Errors: NotFound."""
    if named is not None and not named.is_dir():
        raise NotFound(f"there is no tokenizer folder at {named}")
    return named


def _open(path: Path, task: Task, tokenizer: Path | None) -> ModelFiles:
    if not path.exists():
        raise NotFound(f"there is no model at {path}")
    if path.suffix == ".gguf":
        return _open_gguf(path)
    if is_ggml(path):
        return _open_ggml(path, tokenizer or path.parent)
    if (path / "config.json").is_file():
        return _open_folder(path, task)
    if len(inside := models_among(sorted(path.glob("*.gguf")))) == 1:
        return _open_gguf(inside[0])
    if inside:
        raise InvalidModelFile(f"{path} holds {len(inside)} GGUF files: name one, for example {inside[0]}")
    raise InvalidModelFile(f"{path} is neither a GGUF or GGML file nor a folder with config.json and safetensors")


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


def check_unquantised(graph: Path, quantize: str | None, topology: Path | None) -> None:
    """Raise InvalidRequest where the weights of somebody else's graph are to be quantised."""
    if quantize is not None or topology is not None:
        raise InvalidRequest(f"{graph}: the weights of an ONNX graph stay as they were exported; leave quantize unset")


def _open_folder(folder: Path, task: Task) -> ModelFiles:
    config = read_object(folder / "config.json")
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
    model = open_gguf(path)
    families.check(huggingface_type(model))
    config = huggingface_config(model)
    return ModelFiles(config, GgufWeights(model), model.paths, lambda: TextAssets.from_gguf(model.metadata))


def _open_ggml(path: Path, tokenizer: Path) -> ModelFiles:
    """The file says little: its text, and what else it leaves out, come from the folder of a tokenizer."""
    if not (tokenizer / "tokenizer.json").is_file():
        raise InvalidModelFile(
            f"{path}: GGML files need a tokenizer; name a folder that has tokenizer.json with --tokenizer"
        )
    config = read_object(tokenizer / "config.json", optional=True)
    rope = config.get("rope_parameters") or config
    said = {"rms_norm_eps": config, "rope_theta": rope, "max_position_embeddings": config}
    known = {name: fields[name] for name, fields in said.items() if isinstance(fields.get(name), int | float)}
    model = open_ggml(path, replace(Unsaid(), **known))
    files = (path, *(file for file in (tokenizer / "config.json",) if file.is_file()))
    return ModelFiles(model.config, model, files, lambda: TextAssets.from_folder(tokenizer))
