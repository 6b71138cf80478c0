import pytest
from narthex.rates import Rate
from narthex_server.principal import Principal
from narthex_server.tools.policy import limits
from narthex_server.tools.policy.limits import Allowance, PassedCalls
from narthex_server.tools.policy.rule import Limits, Rule

ANN, BOB, EVE = Principal("ann", "acme"), Principal("bob", "acme"), Principal("eve", "other")


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_comes_back_evenly():
    clock = Clock()
    allowance = Allowance(Rate.parse("3/minute"), clock)
    assert [allowance.take(("a",)) for _ in range(3)] == [0, 0, 0]
    assert allowance.take(("a",)) == pytest.approx(20)
    assert allowance.take(("b",)) == 0
    clock.now += 19
    assert allowance.take(("a",)) == pytest.approx(1)
    clock.now += 1
    assert allowance.take(("a",)) == 0 and allowance.take(("a",)) == pytest.approx(20)
    clock.now += 3600
    assert [allowance.take(("a",)) for _ in range(3)] == [0, 0, 0] and allowance.take(("a",)) > 0


def test_callers_that_have_all_again_are_forgotten_first(monkeypatch):
    monkeypatch.setattr(limits, "MOST_CALLERS", 10)
    clock = Clock()
    allowance = Allowance(Rate.parse("1/minute"), clock)
    for number in range(10):
        allowance.take((str(number),))
    clock.now += 61
    for number in range(100, 130):
        assert allowance.take((str(number),)) == 0
    assert len(allowance._full) <= 11 and allowance.take(("129",)) > 0


@pytest.mark.parametrize(
    ("per", "free"), [("key", [False, True, True]), ("tenant", [False, False, True]), ("all", [False] * 3)]
)
def test_limits_count_together_what_they_say(per, free):
    rule = Rule("r", "allow", limits=Limits(Rate.parse("1/hour"), 1, per))
    passed = PassedCalls()
    assert passed.take(rule, ANN) == 0
    assert [passed.take(rule, who) == 0 for who in (ANN, BOB, EVE)] == free
    with passed.running(rule, ANN) as first:
        assert first
        for who, expected in zip((ANN, BOB, EVE), free, strict=True):
            with passed.running(rule, who) as allowed:
                assert allowed is expected
    with passed.running(rule, ANN) as again:
        assert again


def test_rules_that_are_no_more_are_forgotten_and_others_are_not():
    rule, passed = Rule("r", "allow", limits=Limits(Rate.parse("1/hour"))), PassedCalls()
    passed.take(rule, ANN)
    passed.keep({"r"})
    assert passed.take(rule, ANN) > 0
    passed.keep({"other"})
    assert passed.take(rule, ANN) == 0
