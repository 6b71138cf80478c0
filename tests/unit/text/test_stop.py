from narthex_server.text.stop import StopStrings


def run(text: str, stops: list[str], size: int, include: bool = False) -> tuple[str, str | None]:
    matcher = StopStrings(stops, include)
    shown = "".join(matcher.feed(text[at : at + size]) for at in range(0, len(text), size))
    return shown + (matcher.finish() if matcher.matched is None else ""), matcher.matched


def test_the_cut_does_not_depend_on_how_the_text_arrives() -> None:
    text = "one\n\ntwo ENDING three END four"
    for size in range(1, len(text) + 1):
        assert run(text, ["END", "\n\nthree"], size) == ("one\n\ntwo ", "END")
        assert run(text, ["END"], size, include=True) == ("one\n\ntwo END", "END")
        assert run(text, ["nothing"], size) == (text, None)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    matcher = StopStrings(["</s>", "STOP"])
    assert matcher.feed("a S") == "a "
    assert matcher.feed("T") == ""
    assert matcher.feed("x") == "STx"
    assert matcher.feed("</") == ""
    assert matcher.finish() == "</"


def test_repeating_beginnings_are_not_missed() -> None:
    for size in (1, 2, 3, 7):
        assert run("aaab", ["aab"], size) == ("a", "aab")


def test_what_may_not_end_the_text_is_passed_over_for_good() -> None:
    matcher = StopStrings(["ab", "xabc"])
    assert [matcher.feed(text, may_end=False) for text in ("a", "b", "xab")] == ["", "ab", ""]
    assert matcher.feed("-") == "xab-"  # the "ab" in it came too early
    assert matcher.feed("xa", may_end=False) + matcher.feed("b") == "x" and matcher.matched == "ab"


def test_a_stop_string_may_begin_before_it_may_end_the_text() -> None:
    matcher = StopStrings(["END"])
    assert matcher.feed("x EN", may_end=False) == "x "
    assert (matcher.feed("D y"), matcher.matched) == ("", "END")


def test_of_two_that_end_together_the_longer_one_is_taken() -> None:
    assert run("xyz", ["z", "yz"], 3) == ("x", "yz")


def test_nothing_is_shown_after_the_stop_string() -> None:
    matcher = StopStrings(["."])
    assert matcher.feed("a.b") == "a"
    assert matcher.feed("c") == ""
    assert matcher.matched == "."
