"""How processes of narthex are started: by which command, and in which environment."""

import sys
from collections.abc import Mapping

_TUNABLES = "GLIBC_TUNABLES"


def python_module(name: str, *words: str) -> list[str]:
    """The command that runs a module by this interpreter, and imports nothing from the folder that it is run in.

    There `-m` alone would look for modules first, and a file `h2.py` of the user's would replace a dependency.
    """
    return [sys.executable, "-P", "-m", name, *words]


def server_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """With huge pages for large allocations on Linux, unless glibc is tuned already.

    Weights are read a tenth faster so, and what loading needed goes back to the system.
    """
    huge = {_TUNABLES: "glibc.malloc.hugetlb=1"} if sys.platform == "linux" else {}
    return huge | dict(environ)
