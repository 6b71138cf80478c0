"""Suggestions for an argument of a prompt or a resource template."""

from collections.abc import Mapping
from dataclasses import dataclass

MOST = 100
"""Suggestions that an answer may hold."""


@dataclass(frozen=True, slots=True)
class PromptReference:
    name: str


@dataclass(frozen=True, slots=True)
class TemplateReference:
    uri_template: str


Reference = PromptReference | TemplateReference


@dataclass(frozen=True, slots=True)
class Typed:
    """What is typed so far of one argument, and the arguments already known."""

    argument: str
    value: str
    known: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Completion:
    """At most MOST suggestions, best first; `total` where the server knows it."""

    values: tuple[str, ...] = ()
    total: int | None = None
    has_more: bool = False
