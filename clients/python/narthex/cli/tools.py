"""`narthex tools list` and `narthex tools call`."""

import argparse
import json
import sys

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.cli.transcript import result_text
from narthex.client import Client
from narthex.settings import SettingsError
from narthex.v1.tool_pb2 import CallToolResponse


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="one line per tool")
    calling = actions.add_parser("call", help="call a tool; its output goes to stdout, its progress to stderr")
    calling.add_argument("name", help="such as time__get_current_time")
    calling.add_argument("arguments", nargs="?", default="{}", help='a JSON object, such as \'{"timezone": "UTC"}\'')
    add_connection_flags(listing)
    add_connection_flags(calling)


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return call(arguments, _list)
    try:
        given = json.loads(arguments.arguments)
    except ValueError as error:
        raise SettingsError(f"the arguments are not JSON: {error}") from error
    if not isinstance(given, dict):
        raise SettingsError("the arguments must be a JSON object")
    return call(arguments, lambda client: _call(client, arguments.name, given))


async def _list(client: Client) -> int:
    for tool in await client.list_tools():
        first_line = tool.description.strip().partition("\n")[0]
        print(f"{tool.name}\t{first_line}")
    return Exit.OK


async def _call(client: Client, name: str, given: dict[str, object]) -> int:
    code = Exit.INTERNAL
    async for event in client.call_tool_stream(name, given):
        if event.HasField("result"):
            print(result_text(event.result))
            code = Exit.INTERNAL if event.result.is_error else Exit.OK
        else:
            _show_progress(event)
    return code


def _show_progress(event: CallToolResponse) -> None:
    match event.WhichOneof("event"):
        case "text_delta":
            print(event.text_delta.text, end="", file=sys.stderr, flush=True)
        case "progress":
            total = f"/{event.progress.total:g}" if event.progress.HasField("total") else ""
            print(f"[{event.progress.progress:g}{total}] {event.progress.message}", file=sys.stderr)
        case "log":
            print(event.log.data.decode(errors="replace"), file=sys.stderr)
