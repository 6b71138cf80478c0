"""What an upstream's process can see and change, if it runs in a sandbox."""

from dataclasses import dataclass
from typing import Literal

SandboxMode = Literal["off", "auto", "on"]
"""Whether there is one: no, where bubblewrap is installed, or always."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """The files of this machine to read, but for the empty /tmp and /run, and no other processes.

    `writable` may be written to; what of /tmp and /run is `readable` may be read. Without a `mode` it is the server's.
    """

    mode: SandboxMode | None = None
    network: bool = False
    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
