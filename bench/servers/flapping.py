"""The echo server for a short life: it dies again and again, in the middle of what it does.

python bench/servers/flapping.py SECONDS
"""

import os
import random
import sys
import threading

import echo

threading.Timer(float(sys.argv[1]) * random.uniform(0.5, 1.5), os._exit, [1]).start()
echo.main()
