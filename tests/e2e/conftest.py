import os
import subprocess
import sys
from pathlib import Path

import pytest

PYTHON_V1 = "mcp==1.30.0"
INSTALL_S = 110


@pytest.fixture(scope="session")
def python_v1() -> Path:
    """Where Python's client 1.x stands, apart from the 2.x of this environment; kept for the next time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "narthex-tests"
    home = cache / f"{PYTHON_V1}-{sys.version_info.major}.{sys.version_info.minor}"
    if not home.exists():
        cache.mkdir(parents=True, exist_ok=True)
        fresh = home.with_suffix(f".{os.getpid()}")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(fresh), PYTHON_V1]
        subprocess.run(install, check=True, timeout=INSTALL_S)
        fresh.rename(home)
    return home
