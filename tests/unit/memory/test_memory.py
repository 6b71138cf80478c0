import numpy as np
import pytest
from narthex_server import memory


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A machine with 1,000 MB available, of which this process has mapped 100 MB from files, and its container."""
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    fields = {"/proc/meminfo": {"MemAvailable": 1000}, "/proc/self/status": {"RssFile": 100}}
    monkeypatch.setattr(memory, "_fields", lambda file: fields[str(file)])
    return tmp_path


def test_a_tenth_is_left_of_what_is_available_and_not_mapped(system):
    assert memory.free() == 810


def test_a_container_that_has_less_counts(system):
    for name, text in (("max", "700"), ("current", "500"), ("stat", "anon 10\nfile 200\n")):
        (system / f"memory.{name}").write_text(text)
    assert memory.free() == (700 - 500 + 200 - 100) * 9 // 10


def test_a_container_without_a_limit_does_not(system):
    (system / "memory.max").write_text("max\n")
    assert memory.free() == 810


def test_this_machine_says_something_that_can_be_taken():
    room = memory.free()
    assert room is None or np.empty(min(room, 1 << 20), np.uint8).nbytes <= room
