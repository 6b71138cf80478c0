import json

import pytest
from narthex_server.tools.results.rule import CacheRule, Keeping
from narthex_server.tools.tool import Tool


def tool(own_name: str = "read", annotations: object = None) -> Tool:
    raw = b"" if annotations is None else json.dumps(annotations).encode()
    return Tool(f"s__{own_name}", "", "", b"{}", annotations=raw, server="s", own_name=own_name)


READS = {"readOnlyHint": True}
SAME = READS | {"idempotentHint": True}
CLOSED = READS | {"openWorldHint": False}


def test_nothing_is_kept_unless_somebody_says_so():
    assert Keeping(False, 30).ttl(tool(annotations=SAME), CacheRule()) == 0
    assert Keeping(False, 30).ttl(tool(annotations=SAME), CacheRule(("write*",))) == 0


def test_named_tools_are_kept_whatever_they_say():
    keeping = Keeping(False, 30)
    for annotations in (None, SAME, {"readOnlyHint": False}):
        assert keeping.ttl(tool("glob", annotations), CacheRule(("gl*", "x"))) == 30
        assert keeping.ttl(tool("glob", annotations), CacheRule(("glob",), 2.5)) == 2.5


@pytest.mark.parametrize(
    ("annotations", "kept"),
    [
        (SAME, True), (CLOSED, True), (READS, False), ({"idempotentHint": True}, False),
        (READS | {"openWorldHint": True}, False),
        ({"readOnlyHint": "true", "idempotentHint": True}, False), ({"readOnlyHint": 1, "idempotentHint": 1}, False),
        ([], False), (None, False), ({"readOnlyHint": False, "openWorldHint": False}, False),
    ],
)  # fmt: skip
def test_what_tools_say_of_themselves_counts_where_that_is_wanted(annotations, kept):
    assert bool(Keeping(True, 30).ttl(tool(annotations=annotations), CacheRule())) is kept


def test_annotations_that_are_no_json_say_nothing():
    broken = [Tool("s__t", "", "", b"{}", annotations=raw, server="s") for raw in (b"{", b"[" * 100_000, b"\xff")]
    assert [Keeping(True, 30).ttl(one, CacheRule()) for one in broken] == [0, 0, 0]


def test_a_call_that_may_write_matters_where_anything_is_kept():
    writes, reads = tool("write"), tool("stat", READS)
    assert not Keeping(False, 30).changes(writes, CacheRule())
    for keeping, rule in ((Keeping(False, 30), CacheRule(("read",))), (Keeping(True, 30), CacheRule())):
        assert keeping.changes(writes, rule) and not keeping.changes(reads, rule)
