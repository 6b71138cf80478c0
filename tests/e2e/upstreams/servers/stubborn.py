"""Answers nothing, ignores SIGTERM and the end of its input, and has a child of its own: `stubborn.py PIDFILE`."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen(
    [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]
)
Path(sys.argv[1]).write_text(f"{os.getpid()} {child.pid}")
time.sleep(600)
