"""One worker process as its driver sees it."""

import json
import os
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, cast

from bench.peers.environment import Environment
from bench.peers.measurement import Figures, Measurement
from bench.peers.neighbours import Neighbours

ROOT = Path(__file__).parent.parent.parent


class WorkerFailed(Exception):
    """The process ended without an answer; says where its last words are."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading took; bytes resident before and after it."""

    load_seconds: float
    base_bytes: int
    loaded_bytes: int


@dataclass(frozen=True, slots=True)
class PeerKind:
    """A program to compare with: the module of its worker, with arguments of its own; `note` is for the reader.

    A measurement whose prompts have more than `prompt_tokens` together is left out.
    """

    name: str
    environment: Environment
    worker: str
    arguments: tuple[str, ...] = ()
    note: str = ""
    prompt_tokens: int = 2**31


class Peer:
    """A started worker; WorkerFailed where it cannot load the model or fails later."""

    def __init__(self, kind: PeerKind, arguments: tuple[str, ...], log: Path) -> None:
        self.kind = kind
        self._log = log
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                [kind.environment.python, "-m", f"bench.peers.workers.{kind.worker}", *arguments, *kind.arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | dict(kind.environment.variables),
            )  # fmt: skip
        self.loaded = Loaded(**self._answer())

    def measure(self, measurement: Measurement) -> tuple[Figures, float]:
        """The figures, and how many cores other processes used meanwhile."""
        neighbours = Neighbours(self._process.pid)
        question = cast(IO[str], self._process.stdin)
        print(json.dumps(asdict(measurement)), file=question, flush=True)
        return Figures(**self._answer()), neighbours.cores()

    def stop(self) -> None:
        cast(IO[str], self._process.stdin).close()
        self._process.wait()

    def _answer(self) -> dict[str, Any]:
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            self._process.wait()
            words = self._log.read_text().strip().splitlines()[-1:] or ["no last words"]
            raise WorkerFailed(f"{self.kind.name}: {words[0]} ({self._log})")
        return cast(dict[str, Any], json.loads(line))
