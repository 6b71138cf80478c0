"""`narthex quantize`: a model folder with quantised weights from one with float weights."""

import argparse
import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from narthex_server.errors import FailedPrecondition, InvalidRequest, NarthexError
from narthex_server.main import Exit
from narthex_server.opening import ModelFiles, open_model
from narthex_server.weights.kinds import kind_named
from narthex_server.weights.packed import SHARD_BYTES, quantization_config, write_weights
from narthex_server.weights.quantised import QuantisedWeights
from narthex_server.weights.safetensors import INDEX
from narthex_server.weights.scheme import Scheme
from narthex_server.weights.topology import EMPTY, Topology

Progress = Callable[[int, int], None]
"""Is told how many of how many bytes are written."""

_OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.onnx_data", "*.gguf", "*.tflite")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(message)s")
    logging.getLogger("narthex_server").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # an unfinished folder is removed
    try:
        topology = Topology.read(arguments.topology) if arguments.topology else EMPTY
        check_free(arguments.out)
    except (InvalidRequest, FailedPrecondition) as error:
        return _failed(Exit.USAGE, error)
    try:
        source = open_model(arguments.model)
        write_folder(source, arguments.model, arguments.out, Scheme(arguments.quantize, topology), _Lines())
    except (NarthexError, MemoryError) as error:
        return _failed(Exit.MODEL, error)
    except OSError as error:
        return _failed(Exit.INTERNAL, error)
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    return Exit.OK


def check_free(out: Path) -> None:
    """FailedPrecondition unless there is nothing at `out`, or an empty folder."""
    if out.is_symlink() or (out.exists() and (not out.is_dir() or any(out.iterdir()))):
        raise FailedPrecondition(f"{out} exists already; name a folder that does not exist or is empty")


def write_folder(
    source: ModelFiles, folder: Path, out: Path, scheme: Scheme, progress: Progress, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the model of `folder` to `out`, which appears when it is whole.

    FailedPrecondition where `out` holds something, InvalidRequest where the model is no folder or quantised already,
    InvalidModelFile where a weight cannot be quantised.
    """
    check_free(out)
    if not (folder / "config.json").is_file():
        raise InvalidRequest(
            f"{folder} is no Hugging Face folder; a GGUF file is quantised already, and loads as it is"
        )
    weights = QuantisedWeights(source.weights, scheme)
    total = sum(tensor.nbytes for tensor in filter(None, map(weights.find, weights.names())))
    config = dict(source.config) | {"quantization_config": quantization_config(weights)}
    draft = out.absolute().with_name(f".{out.name}.{os.getpid()}")
    draft.parent.mkdir(parents=True, exist_ok=True)
    try:
        shutil.copytree(folder, draft, ignore=_left_out(folder))
        written = 0
        for tensor in write_weights(draft, weights, shard_bytes):
            written += tensor.nbytes
            progress(written, total)
        (draft / "config.json").write_text(json.dumps(config, indent=2) + "\n", "utf-8")
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _left_out(folder: Path) -> Callable[[str, list[str]], set[str]]:
    """Choose what is not copied: weights that are written anew, the same weights for other programs, hidden files."""
    top = shutil.ignore_patterns(".*", "*.safetensors", INDEX, "config.json", *_OTHER_WEIGHTS)
    below = shutil.ignore_patterns(".*", *_OTHER_WEIGHTS)
    return lambda where, names: (top if Path(where) == folder else below)(where, names)


class _Lines:
    """Progress as a line on stderr for every tenth that is done."""

    def __init__(self) -> None:
        self._tenths = 0

    def __call__(self, written: int, total: int) -> None:
        tenths = 10 * written // max(total, 1)
        if tenths > self._tenths:
            self._tenths = tenths
            print(f"{tenths}0 %: {written / 1e6:.0f} of {total / 1e6:.0f} MB", file=sys.stderr, flush=True)


def _kind(text: str) -> str:
    try:
        return kind_named(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="narthex quantize",
        description="Write a folder with quantised weights, which loads without quantising again.",
        allow_abbrev=False,
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="a Hugging Face folder with float weights")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write; must not exist, or be empty")
    parser.add_argument("--quantize", type=_kind, required=True, metavar="KIND", help="q8_0, q6_k, q5_k, q4_k, q4_0, …")
    parser.add_argument("--topology", type=Path, metavar="FILE", help="other formats for some layers or tensors: YAML")
    return parser


def _failed(code: Exit, error: Exception) -> int:
    print(f"narthex quantize: {error}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
