from pathlib import Path

import numpy as np
import pytest
from narthex_server.text.assets import TextAssets
from narthex_server.text.constraint import Choice
from narthex_server.text.grammar import Grammars, Rules
from narthex_server.text.reasoning import THINK, Reasoning
from narthex_server.text.thought_budget import ThoughtBudget

GOLDEN = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def assets() -> TextAssets:
    return TextAssets.from_folder(GOLDEN / "qwen3")


class Speaker:
    """Wants to say `text`, and takes what is allowed where that is not."""

    def __init__(self, assets: TextAssets, budget: ThoughtBudget) -> None:
        self.assets, self.budget = assets, budget

    def say(self, text: str, most: int = 60) -> str:
        tokenizer = self.assets.tokenizer
        wanted, ids = tokenizer.encode(text, add_special=False), list[int]()
        while wanted and len(ids) < most:
            logits = np.zeros(tokenizer.size, np.float32)
            logits[wanted[0]] = 5
            self.budget.mask(logits)
            token = int(logits.argmax())
            if token == wanted[0]:
                wanted.pop(0)
            self.budget.accept(token)
            ids.append(token)
        return b"".join((tokenizer.pieces or ())[index] for index in ids).decode(errors="replace")


@pytest.mark.parametrize("limit", [0, 1, 7])
def test_thoughts_end_after_so_many_tokens_and_the_turn_goes_on(assets: TextAssets, limit: int) -> None:
    thought = "one two three four five six seven eight nine ten"
    begun = assets.tokenizer.encode(thought, add_special=False)[:limit]
    kept = assets.tokenizer.decode(begun)
    said = Speaker(assets, ThoughtBudget(assets.tokenizer, THINK, limit, inside=True)).say(thought)
    assert said.startswith(kept + "</think>") and said.count("</think>") == 1
    assert said.removeprefix(kept + "</think>") == thought.removeprefix(kept)


def test_a_model_that_stops_thinking_in_time_is_left_alone(assets: TextAssets) -> None:
    for turn in ("<think>hm</think>Hello to you, and what else is there to say?", "Hello <think> " + "word " * 20):
        assert Speaker(assets, ThoughtBudget(assets.tokenizer, THINK, 8, inside=False)).say(turn) == turn


def test_thoughts_that_the_model_opens_count_from_there(assets: TextAssets) -> None:
    said = Speaker(assets, ThoughtBudget(assets.tokenizer, THINK, 3, inside=False)).say("<think>" + "x y " * 30)
    thought = said.removeprefix("<think>").partition("</think>")[0]
    assert len(assets.tokenizer.encode(thought, add_special=False)) <= 3


def test_a_character_is_not_cut_in_two(assets: TextAssets) -> None:
    for limit in range(1, 9):
        said = Speaker(assets, ThoughtBudget(assets.tokenizer, THINK, limit, inside=True)).say("🙂日本🙂日本🙂")
        assert "\ufffd" not in said.partition("</think>")[0]


def test_a_mark_of_several_tokens_is_written_out_and_the_constraint_holds_after_it(assets: TextAssets) -> None:
    odd = Reasoning(("[hm]",), "[/that is enough]")
    assert len(assets.tokenizer.encode(odd.close, add_special=False)) > 2
    grammars = Grammars(assets.tokenizer, assets.eos_ids, assets.tokenizer.size)
    rules = Rules(f"{odd.lark('[hm]', grammars)}\nsaid: @answer", Choice(("yes", "no")).lark())
    budget = ThoughtBudget(assets.tokenizer, odd, 4, inside=True, inner=grammars.compile(rules, "constraint"))
    said = Speaker(assets, budget).say("a b c d e f g h no")
    thought, _, answer = said.partition(odd.close)
    assert len(assets.tokenizer.encode(thought, add_special=False)) <= 5
    assert answer.strip("\n").startswith(("yes<|endoftext|>", "no<|endoftext|>"))
