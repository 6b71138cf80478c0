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
    REFUSED = 5
    """A policy does not simply allow what was asked about."""
    INTERRUPTED = 130
