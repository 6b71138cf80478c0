"""Runs the commands of the README's section "Try it" as a reader would: `make run`, then the others while it serves."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

READY_WITHIN = 60.0  # seconds; everything is installed


def main() -> int:
    section = re.search(r"^## Try it$(.*?)^## ", Path("README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE)
    if section is None:
        return failed('README.md has no section "Try it"')
    blocks = re.findall(r"^```sh\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)
    if len(blocks) < 2 or blocks[0].strip() != "make run":
        return failed("the first command must be `make run`, and others must follow")
    started = time.monotonic()
    served = subprocess.Popen(["make", "run"], stdout=subprocess.PIPE, text=True, process_group=0)
    try:
        assert served.stdout
        for line in served.stdout:
            print(line, end="", flush=True)
            if line.startswith("narthex ready"):
                break
        else:
            return failed(f"`make run` ended with {served.wait()} before it was ready")
        if (took := time.monotonic() - started) > READY_WITHIN:
            return failed(f"`make run` took {took:.1f} s to be ready")
        print(f"ready after {took:.1f} s", flush=True)
        for block in blocks[1:]:
            print(f"$ {block}", end="", flush=True)
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", block], timeout=60, capture_output=True, text=True)
            print(done.stdout + done.stderr, flush=True)
            if done.returncode or not done.stdout.strip():
                return failed(f"the command failed with {done.returncode}")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(served.pid, signal.SIGINT)  # Ctrl-C, as in a terminal: make and what it runs
        served.wait(30)
    return 0


def failed(why: str) -> int:
    print(f"README: {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
