"""A prompt, and what it is when filled in."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PromptArgument:
    name: str
    title: str = ""
    description: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a caller sees of a prompt; icons and meta are JSON as the server gave it, or empty."""

    name: str
    title: str = ""
    description: str = ""
    arguments: tuple[PromptArgument, ...] = ()
    icons: bytes = b""
    meta: bytes = b""
    server: str = ""  # the upstream that owns it
    own_name: str = ""  # what that calls it


@dataclass(frozen=True, slots=True)
class PromptMessage:
    """A turn of a prompt; `content` is one MCP content block as JSON."""

    role: str
    content: bytes


@dataclass(frozen=True, slots=True)
class FilledPrompt:
    messages: tuple[PromptMessage, ...]
    description: str = ""
    meta: bytes = b""
