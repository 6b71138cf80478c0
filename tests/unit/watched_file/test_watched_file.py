import asyncio
import os

import pytest
from narthex_server.watched_file import WatchedFile


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rules"
    path.write_bytes(b"one")
    watched = WatchedFile(path, interval=0.001)
    assert watched.read() == b"one"
    return watched


async def test_another_content_is_news(file):
    waiting = asyncio.create_task(file.changed())
    file.path.write_bytes(b"two")
    assert await asyncio.wait_for(waiting, 5) in (b"two", b"")
    assert file.read() == b"two"


async def test_a_file_that_is_replaced_is_news(file, tmp_path):
    new = tmp_path / "new"
    new.write_bytes(b"two")
    waiting = asyncio.create_task(file.changed())
    new.replace(file.path)
    assert await asyncio.wait_for(waiting, 5) == b"two"


async def test_neither_a_touch_nor_an_absence_is_news(file, tmp_path):
    waiting = asyncio.create_task(file.changed())
    os.utime(file.path, (1, 1))
    file.path.rename(tmp_path / "away")
    new = tmp_path / "new"
    new.write_bytes(b"three")
    new.replace(file.path)
    assert await asyncio.wait_for(waiting, 5) == b"three"


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        WatchedFile(tmp_path / "none").read()
