import asyncio
import json

import pytest
from narthex_server.tools.exact_json import Dumped
from narthex_server.tools.upstream.cutter import Cutter


@pytest.fixture
async def cutter():
    cutter = Cutter()
    yield cutter
    await cutter.close()


def answer(size: int) -> bytes:
    text = {"type": "text", "text": "x" * size}
    return json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"content": [text], "isError": False}}).encode()


async def test_answers_come_back_with_what_is_passed_on_dumped(cutter):
    for size in (3, 2_000_000):
        content = Dumped(f'[{{"type":"text","text":"{"x" * size}"}}]'.encode())
        assert await cutter.cut(answer(size)) == {
            "jsonrpc": "2.0",
            "id": 1,
            "result": {"isError": False, "content": content},
        }


async def test_what_is_no_message_is_none_and_the_next_is_read(cutter):
    assert await cutter.cut(b"x" * 1_000_000) is None
    assert await cutter.cut(answer(3)) is not None


async def test_a_process_that_dies_is_an_error_once(cutter):
    await cutter.cut(answer(3))
    process = cutter._process
    process.kill()
    await process.wait()
    with pytest.raises(ValueError, match="has gone"):
        await cutter.cut(answer(1_000_000))
    assert await cutter.cut(answer(3)) is not None and cutter._process.pid != process.pid


async def test_closing_ends_the_process_in_the_middle_of_its_work(cutter):
    cutting = asyncio.create_task(cutter.cut(b"[" + b"[]," * 3_000_000 + b"[]]"))
    while cutter._process is None:  # noqa: ASYNC110 (nothing tells when it starts)
        await asyncio.sleep(0)
    process = cutter._process
    cutting.cancel()
    await asyncio.wait({cutting})
    await cutter.close()
    assert process.returncode is not None


async def test_the_process_ends_with_its_input(cutter):
    await cutter.cut(answer(3))
    cutter._process.stdin.close()
    assert await cutter._process.wait() == 0
