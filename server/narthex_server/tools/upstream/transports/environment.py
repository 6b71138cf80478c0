"""The variables that a process of an upstream has."""

import os
from collections.abc import Mapping
from fnmatch import fnmatchcase

from mcp.client.stdio import get_default_environment

from narthex_server.tools.upstream.source import Process

OURS = "NARTHEX_"
"""Variables whose names begin so hold our keys, and are no upstream's business."""


def environment_of(source: Process, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Those that the source names, and those of `environ` that it allows; a few that all need, if it says nothing."""
    if source.env_allow is None:
        return get_default_environment() | dict(source.env)
    allowed = {
        name: value
        for name, value in environ.items()
        if not name.startswith(OURS) and any(fnmatchcase(name, pattern) for pattern in source.env_allow)
    }
    return allowed | dict(source.env)
