"""Answers of many megabytes."""

import json

import pytest
from narthex_server.errors import ResourceExhausted
from narthex_server.tools.server import ServerState

MIB = 1024 * 1024


def asked(size: int) -> bytes:
    return json.dumps({"size": size}).encode()


async def test_an_answer_over_the_limit_fails_its_call_with_both_numbers_and_the_server_stays(gateway, script):
    async with gateway({"large": script("large")}, max_bytes=MIB) as running:
        with pytest.raises(ResourceExhausted, match=r"answered with \d+ bytes; at most 1048576") as caught:
            await running.call("large__give", asked(50 * MIB))
        error = caught.value
        assert error.reason == "MESSAGE_TOO_LARGE" and error.metadata["max_bytes"] == str(MIB)
        assert int(error.metadata["bytes"]) > 49 * MIB
        assert running.status("large").state is ServerState.READY
        assert json.loads((await running.call("large__small"))[-1].content) == [{"type": "text", "text": "small"}]


async def test_a_line_that_is_no_message_is_skipped_however_long_it_is(gateway, script):
    async with gateway({"large": script("large")}, max_bytes=MIB) as running:
        (result,) = await running.call("large__flood", asked(20 * MIB))
        assert json.loads(result.content) == [{"type": "text", "text": "small"}]
