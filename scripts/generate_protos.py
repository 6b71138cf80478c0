"""Generate the Python stubs of proto/ into clients/python/narthex/v1: messages, gRPC stubs and types for both.

Needs only Python packages: grpcio-tools and mypy-protobuf. The folder is replaced as a whole, so nothing stale stays.
"""

import shutil
import sys
import tempfile
from importlib.resources import files
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "clients" / "python" / "narthex" / "v1"
DOCSTRING = '"""The contract `narthex.v1`, generated from proto/narthex/v1; do not edit."""\n'


def generate(out: Path) -> int:
    """Write the stubs below `out`; returns protoc's exit status."""
    bin_dir = Path(sys.executable).parent
    suffix = ".exe" if sys.platform == "win32" else ""
    plugins = [f"--plugin=protoc-gen-{name}={bin_dir / f'protoc-gen-{name}{suffix}'}" for name in ("mypy", "mypy_grpc")]
    outputs = [f"--{name}_out={out}" for name in ("python", "grpc_python")]
    outputs += [f"--{name}_out=quiet:{out}" for name in ("mypy", "mypy_grpc")]
    includes = [f"-I{PROTO}", f"-I{files('grpc_tools') / '_proto'}"]
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    return int(protoc.main(["protoc", *includes, *plugins, *outputs, *sources]))


def main() -> int:
    with tempfile.TemporaryDirectory(dir=TARGET.parent) as folder:
        if status := generate(Path(folder)):
            return status
        made = Path(folder) / "narthex" / "v1"
        (made / "__init__.py").write_text(DOCSTRING)
        shutil.rmtree(TARGET, ignore_errors=True)
        shutil.move(made, TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
