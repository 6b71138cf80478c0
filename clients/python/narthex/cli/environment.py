"""The environment that the server's process is started in."""

import sys
from collections.abc import Mapping

_TUNABLES = "GLIBC_TUNABLES"


def server_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """With huge pages for large allocations on Linux, unless glibc is tuned already.

    Weights are read a tenth faster so, and what loading needed goes back to the system.
    """
    huge = {_TUNABLES: "glibc.malloc.hugetlb=1"} if sys.platform == "linux" else {}
    return huge | dict(environ)
