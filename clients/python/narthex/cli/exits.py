"""Exit codes of every narthex process; documented in docs/cli.md."""

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    INTERNAL = 1
    USAGE = 2
    """A flag, a variable or a file cannot be used."""
    MODEL = 3
    """A model cannot be loaded."""
    PORT = 4
    """A port is in use."""
    INTERRUPTED = 130
