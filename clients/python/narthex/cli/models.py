"""`narthex models list`."""

import argparse

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.client import Client
from narthex.v1.model_pb2 import ModelState


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    add_connection_flags(actions.add_parser("list", help="one line per model"))


def run(arguments: argparse.Namespace) -> int:
    return call(arguments, _list)


async def _list(client: Client) -> int:
    for model in await client.list_models():
        state = ModelState.Name(model.state).removeprefix("MODEL_STATE_").lower()
        size = f"{model.parameters / 1e6:.1f}M" if model.parameters else "?"
        columns = [
            model.name,
            state,
            model.architecture,
            size,
            f"context {model.max_context}",
            model.compute,
            model.failure,
        ]
        print("\t".join(filter(None, columns)))
    return Exit.OK
