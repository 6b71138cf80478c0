"""The variables that a process of an upstream has."""

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from mcp.client.stdio import get_default_environment

OURS = "NARTHEX_"
"""Variables whose names begin so hold our keys, and are no upstream's business."""


def environment_of(
    allowed: Sequence[str] | None, own: Mapping[str, str], environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Its own, and those of `environ` whose names fit what is allowed; a few that all programs need if that is None."""
    if allowed is None:
        return get_default_environment() | dict(own)
    passed = {
        name: value
        for name, value in environ.items()
        if not name.startswith(OURS) and any(fnmatchcase(name, pattern) for pattern in allowed)
    }
    return passed | dict(own)
