import errno
import subprocess
import sys
from pathlib import Path

import pytest
from narthex_server.errors import ResourceExhausted
from narthex_server.runtime import allocation

GOLDEN = Path(__file__).parents[2] / "golden"
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

LOAD = """
import resource, sys
from pathlib import Path
from narthex_server.errors import ResourceExhausted
from narthex_server.loading import LoadOptions, load

def held():
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()

model, cache, slots, spare = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
load(model, LoadOptions(threads=1, slots=1, cache_dir=cache)).session.close()
resource.setrlimit(resource.RLIMIT_AS, (held() + spare, resource.RLIM_INFINITY))
try:
    load(model, LoadOptions(threads=1, slots=slots, cache_dir=cache))
except ResourceExhausted as error:
    print(error.reason)
"""


@LINUX
@pytest.mark.parametrize(("slots", "spare"), [(4096, 64 << 20), (1, 0), (1, 200_000), (1, 1 << 20)])
def test_a_load_for_which_there_is_no_memory_is_an_error_and_no_crash(tmp_path, slots, spare):
    words = [str(GOLDEN / "qwen3"), str(tmp_path), str(slots), str(spare)]
    done = subprocess.run([sys.executable, "-c", LOAD, *words], capture_output=True, text=True)
    assert done.stdout == "OUT_OF_MEMORY\n", done.stderr


@LINUX
def test_weights_that_have_no_room_are_refused_with_the_numbers():
    allocation.check_room(1)
    with pytest.raises(ResourceExhausted, match=str(1 << 60)) as caught:
        allocation.check_room(1 << 60)
    assert caught.value.metadata["needed_bytes"] == str(1 << 60)
    assert 0 < int(caught.value.metadata["available_bytes"]) < 1 << 60


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "no memory")])
def test_failed_allocations_are_told_as_such(error):
    with pytest.raises(ResourceExhausted, match="not enough memory"), allocation.allocating():
        raise error


def test_other_errors_stay_what_they_are():
    with pytest.raises(OSError, match="disk"), allocation.allocating():
        raise OSError(errno.EIO, "disk")


def test_trimming_can_be_done_at_any_time():
    allocation.trim()
