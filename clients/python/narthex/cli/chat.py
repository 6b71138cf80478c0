"""`narthex chat`: a conversation in the terminal, streamed, with the server's tools."""

import argparse
import asyncio
import sys
from pathlib import Path

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.cli.transcript import Transcript, result_text
from narthex.client import Client
from narthex.messages import system, user
from narthex.v1.generation_pb2 import (
    TOOL_EXECUTION_CLIENT,
    TOOL_EXECUTION_SERVER,
    AdapterUse,
    ChatMessage,
    ChatSpec,
    ChatStreamResponse,
    Constraint,
    StoppingOptions,
)
from narthex.v1.tool_pb2 import InputRequired, McpContext

DIM, PLAIN = "\x1b[2m", "\x1b[0m"


def add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("message", nargs="*", help="say this and leave; without it, a conversation until Ctrl-D")
    parser.add_argument("--model", default="", help="which model; needed only where several are served")
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME", help="a loaded adapter; repeatable")
    parser.add_argument("--system", default="", metavar="TEXT", help="instructions to the model")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="per answer; without it, what fits the context")
    parser.add_argument("--json-schema", type=_content, metavar="FILE", help="answer with JSON that fits this schema")
    parser.add_argument("--no-tools", action="store_true", help="answer without tools")
    parser.add_argument(
        "--approve", action="append", default=[], metavar="GLOB", help="ask before tools of this name run; repeatable"
    )
    add_connection_flags(parser)


def _content(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name} cannot be read: {error.strerror}") from error


def run(arguments: argparse.Namespace) -> int:
    history = [system(arguments.system)] if arguments.system else []

    def turn(text: str) -> int:
        return call(arguments, lambda client: _turn(client, arguments, history, text))

    if arguments.message:
        return turn(" ".join(arguments.message))
    while (text := _ask()) is not None:  # outside any event loop, which would wait for the line after an interrupt
        before = len(history)
        if text.strip() and turn(text) != Exit.OK:  # which was told; the conversation goes on
            del history[before:]
    print()
    return Exit.OK


def _ask() -> str | None:
    try:
        return input("you> ")
    except EOFError:
        return None


async def _turn(client: Client, arguments: argparse.Namespace, history: list[ChatMessage], text: str) -> int:
    history.append(user(text))
    spec = ChatSpec(
        model=arguments.model,
        messages=history,
        tool_execution=TOOL_EXECUTION_CLIENT if arguments.no_tools else TOOL_EXECUTION_SERVER,
        stopping=StoppingOptions(max_tokens=arguments.max_tokens),
        adapters=[AdapterUse(name=name) for name in arguments.adapter],
        constraint=Constraint(json_schema=arguments.json_schema) if arguments.json_schema is not None else None,
    )
    spec.agent.approvals.tools.extend(arguments.approve)
    transcript = Transcript()
    async for event in client.chat_stream(spec, mcp=McpContext() if arguments.approve else None):
        transcript.add(event)
        _show(event)
        if event.tool_activity.HasField("input_required"):
            await _approve(client, event.tool_activity.input_required)
    history += transcript.messages
    print()
    return Exit.OK


async def _approve(client: Client, wish: InputRequired) -> None:
    """Asks the person; whatever is no clear yes is a no."""
    for request in wish.requests:
        try:
            said = await asyncio.to_thread(input, f"run {request.approval.name}? [y/N] ")
        except EOFError:
            said = ""
        await client.approve(wish, said.strip().lower() in ("y", "yes"))


def _show(event: ChatStreamResponse) -> None:
    match event.WhichOneof("event"):
        case "text_delta":
            print(event.text_delta.text, end="", flush=True)
        case "tool_call":
            _aside(f"-> {event.tool_call.name} {event.tool_call.arguments.decode(errors='replace')}")
        case "tool_result":
            _aside(f"<- {result_text(event.tool_result.result)}")


def _aside(text: str) -> None:
    dim, plain = (DIM, PLAIN) if sys.stdout.isatty() else ("", "")
    print(f"{dim}{text}{plain}", flush=True)
