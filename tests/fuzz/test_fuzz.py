"""A short run of each fuzzer; a longer one is `python tests/fuzz/<name>.py -max_total_time=SECONDS`."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.mark.system
@pytest.mark.parametrize("target", ["faces", "http1", "jsonrpc", "sse", "tokens"])
def test_nothing_breaks_what_reads_bytes(target, tmp_path):
    command = [sys.executable, str(HERE / f"{target}.py"), "-max_total_time=10", "-timeout=5", "-rss_limit_mb=2000"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=90)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "DONE" in run.stderr or "Done" in run.stderr
