from collections.abc import Callable

import numpy as np
import pytest
from narthex_server.text.assets import TextAssets
from narthex_server.text.grammar import Grammars, Rules
from narthex_server.text.reasoning import HARMONY, THINK, ChannelSplitter, Reasoning, Splitter, Thought, detect


def split(text: str, size: int, inside: bool = False, reasoning: Reasoning = THINK) -> tuple[str, str]:
    splitter: Splitter = reasoning.splitter(inside)
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


@pytest.mark.parametrize(
    ("template", "turn"),
    [
        ("… </think> …", "<think>hm</think>Hi"),
        ("… [/THINK] …", "[THINK]hm[/THINK]Hi"),
        ("… </seed:think> …", "<seed:think>hm</seed:think>\nHi"),
        ("… <channel|> …", "<|channel>thought\nhm\n<channel|>Hi"),
        ("… <unused95> …", "<unused94>thought\nhm<unused95>Hi"),
        ("… <|channel|> …", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Hi"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100])
def test_a_template_shows_how_its_model_thinks(template: str, turn: str, size: int) -> None:
    reasoning = detect(template)
    assert reasoning is not None and split(turn, size, reasoning=reasoning) == ("hm", "Hi")


def test_a_template_without_marks_is_of_a_model_that_does_not_think() -> None:
    assert detect("{{ messages }}") is None


def test_a_prompt_shows_whether_thoughts_are_open_or_over() -> None:
    assert THINK.begun("<|im_start|>assistant\n<think>\n") and not THINK.over("<|im_start|>assistant\n<think>\n")
    assert THINK.over("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not THINK.begun("<|im_start|>assistant\n") and not THINK.over("<|im_start|>assistant\n")


@pytest.mark.parametrize("size", [1, 4, 100])
def test_all_channels_but_analysis_are_said(size: int) -> None:
    turn = (
        "<|channel|>analysis<|message|>one <b><|end|><|start|>assistant<|channel|>commentary<|message|>Let me see. "
        "<|end|><|start|>assistant<|channel|>analysis<|message|>two<|end|><|start|>assistant<|channel|>final<|message|>"
        "Done <|."
    )
    assert split(turn, size, reasoning=HARMONY) == ("one <b>two", "Let me see. Done <|.")
    assert split("<|channel|>final<|message|>Hi", size, reasoning=HARMONY) == ("", "Hi")
    assert split("<|channel|>fin", size, reasoning=HARMONY) == ("", "")
    assert isinstance(HARMONY.splitter(False), ChannelSplitter)


@pytest.mark.parametrize(
    ("reasoning", "prompt", "turn"),
    [
        (THINK, "", "<think>\nhm <b>\n</think>\n\nyes"),
        (THINK, "", "yes"),
        (THINK, "<think>\n", "hm\n</think>\n\nyes"),
        (THINK, "</think>\n\n", "yes"),
        (Reasoning(("[THINK]",), "[/THINK]"), "", "[THINK]hm[/THINK]yes"),
        (Reasoning(("<|channel>", "thought"), "<channel|>"), "", "<|channel>thought\nhm\n<channel|>yes"),
        (HARMONY, "", "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>yes"),
        (HARMONY, "", "<|channel|>final<|message|>yes"),
    ],
)
@pytest.mark.parametrize("name", ["qwen3", "gpt_oss"])
def test_a_turns_rules_let_it_think_first_and_then_say_what_it_may(
    assets: Callable[[str], TextAssets], name: str, reasoning: Reasoning, prompt: str, turn: str
) -> None:
    text = assets(name)
    grammars = Grammars(text.tokenizer, text.eos_ids, text.tokenizer.size)
    grammar = grammars.compile(Rules(f'{reasoning.lark(prompt, grammars)}\nsaid: "yes" | "no"'), "constraint")
    for token in text.tokenizer.encode(turn, add_special=False):
        assert not grammar.complete
        logits = np.zeros(text.tokenizer.size, np.float32)
        grammar.mask(logits)
        assert logits[token] == 0
        grammar.accept(token)
    assert grammar.complete
