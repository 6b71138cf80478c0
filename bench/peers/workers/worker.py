"""A process that has loaded one model and answers one measurement at a time, as lines of JSON."""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NoReturn, Protocol

from bench.peers.measurement import Figures, Measurement, decode_rate

Prompts = Sequence[Sequence[int]]


class Runner(Protocol):
    """A loaded model."""

    def generate(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        """Continue each prompt greedily by exactly `tokens`; when each token came, by time.perf_counter."""
        ...


def arguments(description: str | None) -> argparse.ArgumentParser:
    """What the driver tells every worker; some have no use for all of it."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--slots", type=int, required=True, help="sequences at once")
    parser.add_argument("--size", type=int, required=True, help="tokens in a slot")
    parser.add_argument("--threads", type=int, required=True)
    return parser


def memory(field: str) -> int:
    """Bytes that this process has resident (VmRSS) or had at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def start_afresh() -> NoReturn:
    """Begin this program again, so that what it did so far is in no figure of memory."""
    os.execv(sys.executable, sys.orig_argv)


def serve(load: Callable[[], Runner]) -> None:
    """Load, say what that took, then answer until the input ends; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    base, start = memory("VmRSS"), time.perf_counter()
    runner = load()
    took = time.perf_counter() - start
    print(json.dumps({"load_seconds": took, "base_bytes": base, "loaded_bytes": memory("VmRSS")}), file=answers)
    for line in sys.stdin:
        measurement = Measurement(**json.loads(line))
        prompts, start = measurement.prompts(), time.perf_counter()
        times = runner.generate(prompts, measurement.tokens)
        if any(len(sequence) != measurement.tokens for sequence in times):
            sys.exit(f"generated {[len(sequence) for sequence in times]} tokens, not {measurement.tokens}")
        first = max(sequence[0] for sequence in times) - start
        print(json.dumps(asdict(Figures(first, decode_rate(times), memory("VmHWM")))), file=answers)
