from narthex_server.principal import LOCAL, Principal
from narthex_server.tools.log_levels import LEVELS, MAX_CALLERS, LogLevels, passes


def test_a_level_lets_through_what_is_as_severe():
    assert [level for level in LEVELS if passes(level, "error")][:2] == ["error", "critical"]
    assert not any(passes(level, "off") for level in LEVELS[:-1])


def test_a_level_is_of_one_caller_and_maybe_of_one_server():
    levels = LogLevels()
    assert levels.get(LOCAL, "a") == "info"
    levels.set(LOCAL, "error")
    levels.set(LOCAL, "debug", "a")
    assert (levels.get(LOCAL, "a"), levels.get(LOCAL, "b")) == ("debug", "error")
    assert levels.get(Principal("other", "default"), "a") == "info"
    levels.set(LOCAL, "off")
    assert levels.get(LOCAL, "a") == "off"


def test_the_caller_that_was_longest_away_is_forgotten():
    levels = LogLevels()
    for number in range(MAX_CALLERS):
        levels.set(Principal(str(number), "t"), "error")
    assert levels.get(Principal("0", "t"), "") == "error"
    levels.set(LOCAL, "error")
    assert levels.get(Principal("0", "t"), "") == "error" and levels.get(Principal("1", "t"), "") == "info"
