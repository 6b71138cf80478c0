"""The command line of `narthex bridge`."""

from collections.abc import Sequence

from narthex.settings import parse

from narthex_bridge.config.bridge import BridgeConfig

DESCRIPTION = "Serve a narthex server's tools to MCP clients over HTTP and SSE."


OLD_PORT_FLAGS = ("--mcp-http-port", "--http-mcp-port")


def from_arguments(argv: Sequence[str]) -> BridgeConfig:
    """The settings of a command line; a mistake is told on stderr and exits with 2."""
    return parse(BridgeConfig, "bridge", _modern(argv), prog="narthex bridge", description=DESCRIPTION)


def _modern(argv: Sequence[str]) -> Sequence[str]:
    """`--mcp-http-port N` and `--http-mcp-port N` as `--http 127.0.0.1:N`."""
    modern: list[str] = []
    follows_port = False
    for word in argv:
        flag, equals, value = word.partition("=")
        if follows_port:
            modern.append(f"127.0.0.1:{word}")
            follows_port = False
        elif flag in OLD_PORT_FLAGS:
            follows_port = not equals
            modern += ["--http", f"127.0.0.1:{value}"] if equals else ["--http"]
        else:
            modern.append(word)
    return modern
