"""What upstreams say of resources and prompts, read as it comes."""

import pytest
from narthex_server.tools.completion import MOST
from narthex_server.tools.upstream import answers


def test_suggestions_beyond_what_an_answer_may_hold_are_left_out():
    found = answers.completion({"completion": {"values": [str(n) for n in range(150)], "total": 150}})
    assert (len(found.values), found.total, found.has_more) == (MOST, 150, True)
    found = answers.completion({"completion": {"values": ["a"], "hasMore": True, "total": -1}})
    assert (found.values, found.total, found.has_more) == (("a",), None, True)


def test_what_is_between_an_upstream_and_us_is_not_passed_on():
    found = answers.contents({"contents": [], "_meta": {"io.modelcontextprotocol/serverInfo": {}, "own": 1}})
    assert found.meta == b'{"own":1}'


@pytest.mark.parametrize("blob", ["***", "YQ", "YQ==\n"])
def test_bytes_have_to_be_base64(blob):
    with pytest.raises(ValueError):
        answers.contents({"contents": [{"uri": "a:b", "blob": blob}]})
