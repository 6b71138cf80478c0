import os
import subprocess
import sys

import pytest
from narthex.cli.environment import server_environment


def test_the_server_gets_huge_pages_on_linux():
    wanted = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if sys.platform == "linux" else {}
    assert server_environment({"A": "b"}) == {"A": "b", **wanted}


def test_what_the_user_tuned_stays():
    assert server_environment({"GLIBC_TUNABLES": "glibc.malloc.check=1"}) == {"GLIBC_TUNABLES": "glibc.malloc.check=1"}


@pytest.mark.parametrize("words", ["server --help", "bridge --help", "config check", "doctor"])
def test_programs_import_nothing_from_the_folder_that_they_are_started_in(tmp_path, words):
    for name in ("numpy", "grpc", "quart", "h2", "narthex_server", "narthex_bridge", "mcp_server_time"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('the {name} of this folder was run')")
    free = {"NARTHEX_GRPC": "127.0.0.1:0", "NARTHEX_METRICS": "127.0.0.1:0", "NARTHEX_HTTP": "127.0.0.1:0"}
    command = [sys.executable, "-P", "-m", "narthex.cli.main", *words.split()]  # -P: as the installed command
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=os.environ | free)
    assert "of this folder was run" not in ran.stdout + ran.stderr
    assert ran.returncode == 0, ran.stdout + ran.stderr
