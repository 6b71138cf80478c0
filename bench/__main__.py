"""`python -m bench [NAME] [ARGS]` runs bench/NAME; the engine on the demo model where nothing is named."""

import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
FILES = [*HERE.glob("[a-z]*.py"), *(main.parent for main in HERE.glob("*/__main__.py"))]
NAMES = sorted(path.stem for path in FILES)

if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "engine"
    if name not in NAMES:
        sys.exit(f"bench: {name} is none of {', '.join(NAMES)}")
    sys.argv[1:2] = []
    runpy.run_module(f"bench.{name}", run_name="__main__", alter_sys=True)
