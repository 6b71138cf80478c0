"""A process in which ONNX Runtime finds a GPU that is not there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
LIBRARIES = {
    "libcuda.so.1": "DRIVER",
    "libcudart.so.13": "CUDART",
    "libcublas.so.13": "CUBLAS",
    "libcublasLt.so.13": "CUBLASLT",
    "libcurand.so.10": "CURAND",
}


@pytest.fixture(scope="session")
def stubs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the libraries that ONNX Runtime's CUDA provider links to; what driver.c lacks does nothing."""
    folder = tmp_path_factory.mktemp("stubs")
    found = find_spec("onnxruntime")
    assert found is not None and found.origin is not None
    provider = Path(found.origin).parent / "capi" / "libonnxruntime_providers_cuda.so"
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    assert compiler, "the stub driver needs a C compiler: install gcc"
    listed = subprocess.run(["nm", "-D", "--undefined-only", provider], capture_output=True, text=True, check=True)
    wanted = re.findall(r" U (cu\w+|__cuda\w+)(?:@(\S+))?", listed.stdout)
    for library, part in LIBRARIES.items():
        own = subprocess.run(
            [compiler, "-E", "-P", f"-D{part}", HERE / "driver.c"], capture_output=True, text=True, check=True
        ).stdout
        there = set(re.findall(r"(\w+)\(", own))
        rest = [name for name, owner in wanted if (owner or "libcuda.so.1") == library and name not in there]
        source, versions = folder / f"{part}.c", folder / f"{part}.map"
        source.write_text(own + "".join(f"\nint {name}(void) {{ return 0; }}" for name in rest))
        versions.write_text(f"{library} {{ global: *; }};")
        named = [] if part == "DRIVER" else [f"-Wl,--version-script={versions}"]
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-w", "-o", folder / library, source, f"-Wl,-soname,{library}", *named],
            check=True,
        )
    return folder


@pytest.fixture
def on_stub(stubs: Path) -> Callable[..., Any]:
    """Runs a script of this folder in a process of its own; gives what it printed last, as JSON."""

    def run(script: str, *arguments: str, **settings: str) -> Any:
        ran = subprocess.run(
            [sys.executable, HERE / script, *arguments],
            capture_output=True, text=True, timeout=100,
            env=os.environ | {"LD_LIBRARY_PATH": str(stubs), "ORT_LOGGING_LEVEL": "3"} | settings,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout.splitlines()[-1])

    return run
