"""`narthex models list`, `load` and `unload`."""

import argparse
import sys

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.client import Client
from narthex.v1.model_pb2 import LoadProgress, LoadStage, Model, ModelState


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="one line per model")
    loading = actions.add_parser("load", help="load a model into a running server")
    loading.add_argument("name", help="what requests will call it")
    loading.add_argument("path", help="a model folder, .gguf or .onnx file below the server's --model-root")
    loading.add_argument("--compute", metavar="KIND", default="", help="as of `serve` (default: the server's)")
    loading.add_argument(
        "--max-context", type=_count, metavar="N", default=0, help="tokens of prompt and answer (default: the server's)"
    )
    loading.add_argument(
        "--max-slots",
        type=_count,
        metavar="N",
        default=0,
        help="sequences that decode together (default: the server's)",
    )
    unloading = actions.add_parser("unload", help="unload a model, once its running requests have ended")
    unloading.add_argument("name")
    for action in (listing, loading, unloading):
        add_connection_flags(action)


def _count(text: str) -> int:
    number = int(text)
    if not 0 <= number < 1 << 32:
        raise argparse.ArgumentTypeError(f"{text} is below 0 or beyond 32 bits")
    return number


def run(arguments: argparse.Namespace) -> int:
    return call(arguments, lambda client: _run(client, arguments))


async def _run(client: Client, arguments: argparse.Namespace) -> int:
    match arguments.action:
        case "list":
            for model in await client.list_models():
                _show(model)
        case "load":
            await _load(client, arguments)
        case "unload":
            await client.unload_model(arguments.name)
    return Exit.OK


async def _load(client: Client, arguments: argparse.Namespace) -> None:
    """How far it is on one line of stderr, where that is a terminal; the model on stdout."""
    terminal = sys.stderr.isatty()
    events = client.load_model_stream(
        arguments.name,
        arguments.path,
        compute=arguments.compute,
        max_context=arguments.max_context,
        max_slots=arguments.max_slots,
    )
    try:
        async for event in events:
            if event.HasField("model"):
                _show(event.model)
            elif terminal:
                print(f"\r{_progress(event.progress)}", end="", file=sys.stderr, flush=True)
    finally:
        if terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _progress(progress: LoadProgress) -> str:
    stage = LoadStage.Name(progress.stage).removeprefix("LOAD_STAGE_").lower()
    return f"{progress.fraction:4.0%} {stage:5}"


def _show(model: Model) -> None:
    state = ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower()
    unknown = "remote" if model.device == "remote" else "?"
    size = f"{model.parameters / 1e6:.1f}M" if model.parameters else unknown
    context = f"context {model.max_context}" if model.max_context else ""
    columns = [model.name, state, model.architecture, size, context, model.compute, model.failure]
    print("\t".join(filter(None, columns)))
