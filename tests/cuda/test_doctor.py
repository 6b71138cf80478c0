"""What `narthex doctor` says about a GPU."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.system  # the stub driver needs a C compiler


@pytest.mark.parametrize(
    ("gpus", "said"),
    [("1", "cuda:0 can be used; models run there"), ("0", "models run on the CPU: the NVIDIA driver finds no GPU")],
)
def test_doctor_says_where_models_run(gpus, said, stubs):
    told = subprocess.run(
        [sys.executable, "-m", "narthex.cli.main", "doctor"],
        capture_output=True, text=True, timeout=60,
        env=os.environ | {"LD_LIBRARY_PATH": str(stubs), "STUB_GPUS": gpus},
    )  # fmt: skip
    assert said in told.stdout, told.stdout + told.stderr
