import json
from collections.abc import Callable
from pathlib import Path

import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.text.assets import GenerationDefaults, TextAssets

GOLDEN = Path(__file__).parents[2] / "golden"


def copy(source: Path, target: Path, **config: object) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (target / name).write_bytes((source / name).read_bytes())
    settings = json.loads((target / "tokenizer_config.json").read_text("utf-8")) | config
    (target / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return target


def test_eos_ids_come_from_every_place_that_names_them(assets: Callable[[str], TextAssets]) -> None:
    assert assets("llama").eos_ids == {505, 509, 510}
    assert assets("mistral_swa").eos_ids == {2}
    assert assets("phi3").eos_ids == {595, 598}


def test_turn_ends_are_known_without_a_generation_config(tmp_path: Path) -> None:
    found = TextAssets.from_folder(copy(GOLDEN / "qwen3", tmp_path))
    assert found.eos_ids == {500, 502}


def test_defaults_are_those_of_generation_config(assets: Callable[[str], TextAssets], tmp_path: Path) -> None:
    assert assets("llama").defaults == GenerationDefaults(temperature=0.6, top_p=0.9)
    folder = copy(GOLDEN / "qwen3", tmp_path)
    assert TextAssets.from_folder(folder).defaults == GenerationDefaults()
    (folder / "generation_config.json").write_text('{"do_sample": false, "temperature": 0.7}')
    assert TextAssets.from_folder(folder).defaults.temperature == 0
    (folder / "generation_config.json").write_text('{"repetition_penalty": 1.05, "top_k": -1}')
    assert TextAssets.from_folder(folder).defaults == GenerationDefaults(top_k=0, repetition_penalty=1.05)


def test_templates_are_found_in_all_their_places(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    folder = copy(GOLDEN / "qwen2", tmp_path, chat_template=named)
    template = TextAssets.from_folder(folder).template
    assert template is not None and template.sources == {"default": "a", "tool_use": "b"}
    (folder / "chat_template.jinja").write_text("c")
    template = TextAssets.from_folder(folder).template
    assert template is not None and template.sources == {"default": "c", "tool_use": "b"}


def test_a_model_without_template_has_none(tmp_path: Path) -> None:
    assert TextAssets.from_folder(copy(GOLDEN / "qwen2", tmp_path, chat_template=None)).template is None


def test_a_config_that_is_not_json_is_refused_by_path(tmp_path: Path) -> None:
    folder = copy(GOLDEN / "qwen2", tmp_path)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(InvalidModelFile, match="tokenizer_config"):
        TextAssets.from_folder(folder)


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("tokenizer_config.json", {"chat_template": [{"name": "default"}]}, "neither a text nor named texts"),
        ("tokenizer_config.json", {"chat_template": 7}, "neither a text nor named texts"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"x": {}}}, "added_tokens_decoder does not describe tokens"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder does not describe tokens"),
        ("generation_config.json", {"eos_token_id": [1, "x"]}, "eos_token_id is 'x', not the number of a token"),
        ("config.json", {"eos_token_id": {}}, "eos_token_id is {}, not the number of a token"),
        ("generation_config.json", {"temperature": "hot"}, "temperature is 'hot', not a number"),
        ("generation_config.json", {"top_p": float("nan")}, "top_p is nan, not a number"),
        ("generation_config.json", {"top_k": [1]}, r"top_k is \[1\], not a whole number"),
        ("generation_config.json", {"top_k": 1 << 32}, "top_k is 4294967296, not a whole number of tokens"),
        ("generation_config.json", {"temperature": -1}, "temperature is -1, not between 0 and 100"),
        ("generation_config.json", {"top_p": 1.5}, "top_p is 1.5, not between 0 and 1"),
        ("generation_config.json", {"top_p": 0}, "top_p is 0, not between"),
        ("generation_config.json", {"min_p": -0.1}, "min_p is -0.1, not between 0 and 1"),
        ("generation_config.json", {"repetition_penalty": 0}, "repetition_penalty is 0, not between 0.01 and 100"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(tmp_path: Path, file: str, content: object, complaint: str) -> None:
    folder = copy(GOLDEN / "qwen2", tmp_path)
    (folder / file).write_text(json.dumps(content))
    with pytest.raises(InvalidModelFile, match=complaint):
        TextAssets.from_folder(folder)


def test_a_template_file_is_text_of_bounded_size(tmp_path: Path) -> None:
    folder = copy(GOLDEN / "qwen2", tmp_path)
    (folder / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(InvalidModelFile, match=r"chat_template\.jinja: not UTF-8"):
        TextAssets.from_folder(folder)
    with (folder / "chat_template.jinja").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InvalidModelFile, match="1099511627776 bytes of template"):
        TextAssets.from_folder(folder)


def test_a_gguf_file_may_carry_its_own_sampling_defaults() -> None:
    tokens = [chr(code) for code in range(33, 127)]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * len(tokens),
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": 0,
        "general.sampling.temp": 0.0,
        "general.sampling.top_k": 40,
    }
    assert TextAssets.from_gguf(metadata).defaults == GenerationDefaults(temperature=0.0, top_k=40)
