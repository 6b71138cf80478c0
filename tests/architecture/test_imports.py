import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_import_contract_holds():
    held = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONIOENCODING": "utf-8"},
    )
    assert held.returncode == 0, held.stdout + held.stderr


def test_the_command_line_and_the_shared_helpers_start_without_grpc():
    check = """
import sys, narthex.settings, narthex.keys, narthex.cli.main, narthex.cli.serve
assert not {"grpc", "google.protobuf", "onnxruntime", "narthex_server", "narthex_bridge"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_a_tool_gateway_never_imports_onnxruntime():
    check = """
import sys, narthex_server.app
assert "onnxruntime" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)
