"""Answers nothing, ignores SIGTERM and the end of its input, and starts others: `stubborn.py PIDFILE`."""

import signal
import time

from litter import litter

signal.signal(signal.SIGTERM, signal.SIG_IGN)
litter()
time.sleep(600)
