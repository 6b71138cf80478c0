"""Pages hold every item once, also while the list changes."""

import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.services.paging import page


def same(item: str) -> str:
    return item


def test_pages_follow_each_other_to_the_end():
    first, token = page("dbac", same, 3, "")
    rest, end = page("dbac", same, 3, token)
    assert (first, rest, end) == (["a", "b", "c"], ["d"], "")


def test_no_size_means_all_of_a_short_list():
    assert page("ba", same, 0, "") == (["a", "b"], "")


def test_an_item_that_vanishes_between_pages_costs_no_other():
    _, token = page("abcd", same, 2, "")
    assert page("acd", same, 2, token)[0] == ["c", "d"]


@pytest.mark.parametrize("token", ["x", "!!!", "bm9wZQ==", "é"])
def test_a_foreign_token_is_refused(token):
    with pytest.raises(InvalidRequest) as caught:
        page("ab", same, 1, token)
    assert caught.value.violations[0].field == "page_token"
