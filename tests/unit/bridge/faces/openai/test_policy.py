"""What becomes of members that nobody reads."""

import pytest
from narthex_bridge.faces.body import Fields
from narthex_bridge.faces.policy import settle
from narthex_bridge.http.refusal import Refusal


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("functions", [{"name": "f"}], "use tools"),
        ("function_call", {"name": "f"}, "use tool_choice"),
        ("web_search_options", {}, "use a forwarded tool"),
        ("modalities", ["text", "audio"], ""),
        ("audio", {"voice": "v"}, ""),
        ("truncate_sequence", True, ""),
        ("use_beam_search", True, ""),
        ("mirostat", 2, ""),
        ("n_predict", 5, "use max_tokens"),
        ("previous_response_id", "resp_1", "send the whole conversation in input"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(name, value, hint):
    with pytest.raises(Refusal, match=f"{name} is not supported here.*{hint}") as caught:
        settle(Fields({name: value}))
    assert (caught.value.status, caught.value.param) == (400, name)


def test_what_asks_for_what_happens_anyway_is_not():
    assert not settle(
        Fields(
            {
                "functions": [], "modalities": ["text"], "truncate_sequence": False, "mirostat": 0, "best_of": 1,
                "web_search_options": None, "length_penalty": 1.0, "user": "u", "metadata": {}, "store": True,
            }
        )
    )  # fmt: skip


def test_what_nobody_knows_is_ignored_and_named():
    assert settle(Fields({"teperature": 1, "a\r\nb": 1, "x" * 65: 1, "gone": None})) == (
        ("x-narthex-ignored", "teperature"),
    )
    ((_, named),) = settle(Fields({f"f{index}": 1 for index in range(100)}))
    assert len(named.split(", ")) == 16
