"""What a server starts and does not stop."""

import os
import subprocess
import sys
from pathlib import Path

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
DETACHING = f"""
import subprocess, sys
command, no = [sys.executable, "-c", {DEAF!r}], subprocess.DEVNULL
print(subprocess.Popen(command, start_new_session=True, stdin=no, stdout=no, stderr=no).pid)
"""


def litter() -> None:
    """Starts a child, which holds our pipes, and an orphan in a session of its own; both ignore SIGTERM.

    The file that the last argument names gets a line with their pids after our own.
    """
    child = subprocess.Popen([sys.executable, "-c", DEAF])
    detaching = subprocess.run([sys.executable, "-c", DETACHING], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    with Path(sys.argv[-1]).open("a") as pids:
        print(os.getpid(), child.pid, int(detaching.stdout), file=pids)
