"""A server that is killed at any point of its work on tickets loses nothing that it has acknowledged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.lot.stores import crashes


def killed(path: Path, seed: int, rounds: int) -> dict[str, int]:
    command = [sys.executable, crashes.__file__, str(path), str(seed), str(rounds)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, int] = json.loads(done.stdout)
    return told


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    told = killed(tmp_path / "tickets.db", seed=7, rounds=10)
    assert told["kills"] > 10
    assert told["tickets"] > 100
    assert told["open"] == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", range(5))
def test_nothing_acknowledged_is_lost_or_doubled_however_often(tmp_path: Path, seed: int) -> None:
    told = killed(tmp_path / "tickets.db", seed, rounds=100)
    assert told["kills"] > 100
    assert told["open"] == 0
