import sys
from pathlib import Path

import pytest
from narthex_server.runtime.pages import PAGE, Pages

linux = pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux only")


def resident() -> int:
    """Resident bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


@linux
def test_a_reserved_range_costs_only_what_is_written():
    before = resident()
    array = Pages(1 << 34).array((1 << 32,))
    array[:: 1 << 28] = 1
    assert resident() - before < 1 << 25


@linux
def test_forgotten_pages_go_back_to_the_system():
    pages = Pages(1 << 26)
    array = pages.array((1 << 24,))
    array[:] = 1
    full = resident()
    pages.forget(0, 1 << 26)
    assert full - resident() > 1 << 25
    assert not array.any()


@linux
def test_pages_shared_with_a_neighbour_are_kept():
    pages = Pages(4 * PAGE)
    array = pages.array((PAGE,))
    array[:] = 1
    pages.forget(PAGE // 2, 2 * PAGE)
    assert array[: PAGE // 4].all()
    assert not array[PAGE // 4 : PAGE // 2].any()
    assert array[PAGE // 2 :].all()
