"""Everything a model needs to read and write text."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from narthex_server.documents import read_object
from narthex_server.errors import InvalidModelFile
from narthex_server.text.template import LARGEST_SOURCE, ChatTemplate
from narthex_server.text.tokenizer import Tokenizer

_TEXT_ENDS = ("<|endoftext|>", "<|end_of_text|>")
_TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<end_of_turn>", "<|end_of_turn|>", *_TEXT_ENDS)
"""Tokens that end a turn in every family that has them, whatever a file declares."""
_GGUF_SAMPLING: Mapping[str, str] = MappingProxyType(
    {
        "temperature": "temp",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "repetition_penalty": "penalty_repeat",
    }
)


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """What the model's author recommends where a request says nothing; None where the author does not either."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature, 0, 100),
            "top_p": (self.top_p, 0, 1),
            "min_p": (self.min_p, 0, 1),
            "repetition_penalty": (self.repetition_penalty, 0.01, 100),
        }
        for name, (value, least, most) in limits.items():
            if value is None:
                continue
            if not (type(value) in (int, float) and math.isfinite(value)):
                raise InvalidModelFile(f"the model's own sampling: {name} is {value!r}, not a number")
            if not least <= value <= most or (name == "top_p" and value == 0):
                raise InvalidModelFile(f"the model's own sampling: {name} is {value!r}, not between {least} and {most}")
        if self.top_k is not None and not (type(self.top_k) is int and self.top_k < 2**32):
            raise InvalidModelFile(f"the model's own sampling: top_k is {self.top_k!r}, not a whole number of tokens")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From numbers as files have them, where a top_k below 0 is off. Errors: InvalidModelFile."""
        found = {field.name: values.get(field.name) for field in fields(cls)}
        if type(found["top_k"]) is int:
            found["top_k"] = max(found["top_k"], 0)
        return cls(**found)


@dataclass(frozen=True, slots=True)
class TextAssets:
    """A model's tokenizer, chat template (None for a base model), the tokens that end a turn, and its defaults."""

    tokenizer: Tokenizer
    template: ChatTemplate | None
    eos_ids: frozenset[int]
    defaults: GenerationDefaults = GenerationDefaults()

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """From a Hugging Face folder. Errors: InvalidModelFile."""
        config = read_object(folder / "tokenizer_config.json", optional=True)
        model = read_object(folder / "config.json", optional=True)
        generation = read_object(folder / "generation_config.json", optional=True)
        tokenizer = Tokenizer.from_folder(folder, config)
        sources = _folder_templates(folder, config)
        tokens = {name: text for name, value in config.items() if name.endswith("_token") and (text := _text(value))}
        declared = [*_ids(generation.get("eos_token_id")), *_ids(model.get("eos_token_id")), *_ids(tokenizer.eos)]
        return cls(
            tokenizer,
            ChatTemplate(sources, tokens) if sources else None,
            frozenset(declared) | _turn_ends(tokenizer),
            _defaults(generation),
        )

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> Self:
        """From a GGUF file's metadata. Errors: InvalidModelFile."""
        tokenizer = Tokenizer.from_gguf(metadata)
        prefix = "tokenizer.chat_template"
        sources = {
            key.removeprefix(prefix).removeprefix(".") or "default": value
            for key, value in metadata.items()
            if key == prefix or (key.startswith(prefix + ".") and isinstance(value, str))
        }
        if not isinstance(sources.get("default", ""), str):
            raise InvalidModelFile(f"{prefix} is {sources['default']!r:.80}, not a text")
        names = {"bos_token": tokenizer.bos, "eos_token": tokenizer.eos}
        tokens = {name: tokenizer.token(index) or "" for name, index in names.items() if index is not None}
        keys = ("eos", "eot", "eom")
        declared = [index for key in keys for index in _ids(metadata.get(f"tokenizer.ggml.{key}_token_id"))]
        return cls(
            tokenizer,
            ChatTemplate(sources, tokens) if sources else None,
            frozenset(declared) | _turn_ends(tokenizer),
            GenerationDefaults.of(
                {ours: metadata.get(f"general.sampling.{key}") for ours, key in _GGUF_SAMPLING.items()}
            ),
        )


def _turn_ends(tokenizer: Tokenizer) -> frozenset[int]:
    # Phi's <|end|> ends a turn; where there is a <|return|> it only ends one of the turn's several messages.
    ends = _TURN_ENDS if tokenizer.ids_of(("<|return|>",)) else (*_TURN_ENDS, "<|end|>")
    return tokenizer.ids_of(ends) & tokenizer.special_ids


def _folder_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Template text by name; files win over tokenizer_config.json, as they do for the reference implementation."""
    sources = _named_templates(folder / "tokenizer_config.json", config.get("chat_template"))
    main = folder / "chat_template.jinja"
    if main.is_file():
        sources["default"] = _template_file(main)
    for path in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        sources[path.stem] = _template_file(path)
    return sources


def _named_templates(path: Path, entry: Any) -> dict[str, str]:
    """One template, a list of named ones, or an object of them."""
    if isinstance(entry, list):
        entry = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
    sources = {"default": entry} if isinstance(entry, str) else entry or {}
    if not isinstance(sources, dict) or not all(isinstance(text, str) for pair in sources.items() for text in pair):
        raise InvalidModelFile(f"{path}: chat_template is neither a text nor named texts")
    return dict(sources)


def _template_file(path: Path) -> str:
    if (size := path.stat().st_size) > LARGEST_SOURCE:
        raise InvalidModelFile(f"{path}: {size} bytes of template; at most {LARGEST_SOURCE} are read")
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidModelFile(f"{path}: not UTF-8: {error}") from error


def _defaults(generation: Mapping[str, Any]) -> GenerationDefaults:
    greedy = generation.get("do_sample") is False
    return GenerationDefaults.of({**generation, "temperature": 0.0} if greedy else generation)


def _text(value: object) -> str | None:
    content = value.get("content") if isinstance(value, dict) else value
    return content if isinstance(content, str) else None


def _ids(value: Any) -> list[int]:
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if wrong := [item for item in values if type(item) is not int]:
        raise InvalidModelFile(f"eos_token_id is {wrong[0]!r}, not the number of a token")
    return values
