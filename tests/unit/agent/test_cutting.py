"""Results that are too large for the model."""

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from narthex_server.agent.cutting import Cutter, Reader
from narthex_server.agent.options import AgentOptions, ResultLimits
from narthex_server.errors import NotFound
from narthex_server.pipelines import serving
from narthex_server.pipelines.request import ChatRequest
from narthex_server.principal import Principal
from narthex_server.text.messages import Message
from narthex_server.tools.kept_results import PREFIX, KeptLimits, KeptResults
from narthex_server.tools.native.read_result import ReadResultTool
from narthex_server.tools.tool import CallContext

from tests.unit.agent.scripted import ANN

LINES = "".join(f"line {number} of many\n" for number in range(2000))


def uri(text: str) -> str:
    return re.search(rf"{PREFIX}[\w-]+", text)[0]


async def test_the_whole_is_kept_and_the_model_reads_on(serve, agent):
    tool = agent.tool("t", LINES)
    options = AgentOptions(("t",), results=ResultLimits(bytes=1000))
    async with serve(agent.call("t"), "Enough.", max_len=8192) as model:
        ran = await agent.run(model, [tool], options)
    (shown,) = ran.results
    begin, _, note = shown.text.rpartition("\n[Cut: ")
    assert LINES.startswith(begin) and begin.endswith("many\n"), "at the end of a line"
    assert len(begin) <= 1000 and f"the rest begins at offset {len(begin)}" in note
    assert agent.host.kept.read(ANN, uri(shown.text)) == LINES
    assert LINES[:50].encode().replace(b"\n", b"\\n") in shown.result.content, "the caller has it whole"


async def test_the_reader_is_offered_only_after_a_cut(serve, agent):
    async with serve(agent.call("t"), agent.call("read_result", '{"uri": "x"}'), "Done.", max_len=8192) as model:
        short = await agent.run(model, [agent.tool("t")])
        assert not any("no result" in one.text for one in short.results), "it is no tool then"
        options = AgentOptions(("t",), results=ResultLimits(bytes=300))
        request = ChatRequest("s", (Message("user", "Do."),))
        long = await agent.run(model, [agent.tool("t", LINES)], options, request=request)
    assert "there is no result" in long.results[1].text and long.text(3) == "Done."


async def test_tokens_bound_what_bytes_do_not(serve):
    async with serve("x") as model:
        tokens = serving.tokenize(model)
        limits = ResultLimits(bytes=1 << 20, tokens=64)
        shown = await Cutter(limits, Reader(8192, tokens), KeptResults(), ANN).fit("αβγ δεζ " * 500)
        begin = shown.rpartition("\n[Cut: ")[0]
        assert 10 < len(await tokens.encode(begin, False)) <= 64 and "�" not in begin


async def test_all_results_of_a_run_share_a_bound():
    cutter = Cutter(ResultLimits(total_bytes=1000), Reader(100_000), KeptResults(), ANN)
    assert await cutter.fit("x" * 900) == "x" * 900
    assert (await cutter.fit("y" * 900)).startswith("y" * 256 + "\n[Cut: 256 of 900")


async def test_what_is_too_large_to_be_kept_says_so():
    kept = KeptResults(KeptLimits(caller_bytes=1000))
    shown = await Cutter(ResultLimits(bytes=300), Reader(8192), kept, ANN).fit("x" * 2000)
    assert "too large to be kept" in shown and PREFIX not in shown


@given(st.text(max_size=2000), st.integers(256, 600))
async def test_what_is_shown_is_always_a_beginning_within_the_bound(text, limit):
    shown = await Cutter(ResultLimits(bytes=limit), Reader(100_000), KeptResults(), ANN).fit(text)
    begin = shown.rpartition("\n[Cut: ")[0] if shown != text else text
    assert text.startswith(begin) and len(begin.encode("utf-8", "replace")) <= limit


def test_results_are_their_callers_alone():
    now = [0.0]
    kept = KeptResults(KeptLimits(seconds=10, caller_bytes=100, total_bytes=150), lambda: now[0])
    mine = kept.keep(ANN, "x" * 60)
    for other in (Principal("bob", "t"), Principal("ann", "u")):
        with pytest.raises(NotFound):
            kept.read(other, mine)
    second = kept.keep(ANN, "y" * 60)
    assert not kept.has(ANN, mine), "the oldest gives way"
    kept.keep(Principal("bob", "t"), "z" * 100)
    assert not kept.has(ANN, second), "of all callers"
    last = kept.keep(ANN, "w")
    now[0] = 11
    assert not kept.has(ANN, last)


async def test_parts_join_to_the_whole():
    kept = KeptResults()
    tool, name = ReadResultTool(kept, 1000), kept.keep(ANN, LINES)
    whole, offset = "", 0
    while offset < len(LINES):
        arguments = f'{{"uri": "{name}", "offset": {offset}, "length": 5000}}'.encode()
        (result,) = [event async for event in tool.call(arguments, CallContext(ANN, "r"))]
        part = json.loads(result.content)[0]["text"].rpartition("\n[characters ")[0]
        assert len(part) <= 1000
        whole, offset = whole + part, offset + len(part)
    assert whole == LINES


async def test_without_a_bound_a_result_gets_a_quarter_of_the_context_estimated_where_nobody_counts():
    shown = await Cutter(ResultLimits(), Reader(4096), KeptResults(), ANN).fit("x" * 10_000)
    assert shown.startswith("x" * 3072 + "\n[Cut: 3072 of 10000"), "1024 tokens of 3 bytes"
