"""`narthex adapters list`, `load` and `unload`."""

import argparse

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.client import Client
from narthex.v1.model_pb2 import Adapter


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="one line per adapter")
    loading = actions.add_parser("load", help="add an adapter to a running model")
    loading.add_argument("name", help="what requests will call it")
    loading.add_argument("path", help="a folder below the server's --adapter-root")
    unloading = actions.add_parser("unload", help="remove an adapter, once the requests that use it have ended")
    unloading.add_argument("name")
    for action in (listing, loading, unloading):
        action.add_argument("--model", default="", help="which model; needed only where several are served")
        add_connection_flags(action)


def run(arguments: argparse.Namespace) -> int:
    return call(arguments, lambda client: _run(client, arguments))


async def _run(client: Client, arguments: argparse.Namespace) -> int:
    match arguments.action:
        case "list":
            for adapter in await client.list_adapters(arguments.model):
                _show(adapter)
        case "load":
            _show(await client.load_adapter(arguments.name, arguments.path, arguments.model))
        case "unload":
            await client.unload_adapter(arguments.name, arguments.model)
    return Exit.OK


def _show(adapter: Adapter) -> None:
    print(f"{adapter.name}\t{adapter.model}\trank {adapter.rank}\tscale {adapter.scale:g}")
