"""How the fuzzers here run: from seeds, which each must pass first."""

import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import atheris


def fuzz(check: Callable[[bytes], None], seeds: Iterable[bytes]) -> None:
    """Runs libFuzzer with its options from the command line; `check` raises for a fault."""
    corpus = Path(tempfile.mkdtemp(prefix="narthex-fuzz-"))
    for number, seed in enumerate(seeds):
        check(seed)
        (corpus / str(number)).write_bytes(seed)
    atheris.Setup([*sys.argv, str(corpus)], check)
    atheris.Fuzz()
