"""A command run by bubblewrap, in namespaces of its own."""

import os
import shutil
import sys
from collections.abc import Sequence

from narthex_server.errors import Unavailable
from narthex_server.tools.upstream.sandbox import Sandbox

OWN_PROCESSES = 2
"""bubblewrap itself, outside of the sandbox and as the first process in it."""

_NAMES = "/run/systemd/resolve"
"""Where /etc/resolv.conf leads on many machines."""


def find(sandbox: Sandbox) -> str | None:
    """The program, if the command is to be run by it.

    Raises:
        Unavailable: the sandbox has to be, and cannot.
    """
    if sandbox.mode not in ("on", "auto"):
        return None
    program = shutil.which("bwrap") if sys.platform == "linux" else None
    if program is None and sandbox.mode == "on":
        raise Unavailable(
            "its sandbox is on, which needs Linux and the program bwrap: install the package bubblewrap, or set "
            "sandbox to auto or off",
            reason="SANDBOX_UNAVAILABLE",
        )
    return program


def wrapped(sandbox: Sandbox, command: Sequence[str], cwd: str | None) -> list[str]:
    """The arguments of bubblewrap, its own name first."""
    options = ["bwrap", "--die-with-parent", "--unshare-all", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    options += ["--tmpfs", "/tmp", "--tmpfs", "/run"]  # sockets, such as those of containers, do not mind "read-only"
    if sandbox.network:
        options += ["--share-net", "--ro-bind-try", _NAMES, _NAMES]
    if cwd is not None:
        options += ["--ro-bind", os.path.abspath(cwd), os.path.abspath(cwd)]
    for kind, paths in (("--ro-bind", sandbox.readable), ("--bind", sandbox.writable)):
        for path in map(os.path.abspath, paths):
            options += [kind, path, path]
    if cwd is not None:
        options += ["--chdir", os.path.abspath(cwd)]
    return [*options, "--", *command]
