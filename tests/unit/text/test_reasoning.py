import pytest
from narthex_server.text.reasoning import ReasoningSplitter, Thought


def split(text: str, size: int, inside: bool = False) -> tuple[str, str]:
    splitter = ReasoningSplitter(inside)
    parts = [part for at in range(0, len(text), size) for part in splitter.feed(text[at : at + size])]
    parts += splitter.finish()
    thoughts = "".join(part.text for part in parts if isinstance(part, Thought))
    return thoughts, "".join(part for part in parts if isinstance(part, str))


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_thoughts_and_words_are_told_apart(size: int) -> None:
    assert split("<think>\nhm\nso\n</think>\n\nHi <think> no", size) == ("hm\nso", "Hi <think> no")
    assert split("hm\n</think>\n\nHi", size, inside=True) == ("hm", "Hi")
    assert split("Hi there", size) == ("", "Hi there")
    assert split("\n<thin air", size) == ("", "\n<thin air")
    assert split("<think>\n\n</think>\n\nHi", size) == ("", "Hi")
    assert split("<think>cut off </th", size) == ("cut off </th", "")
