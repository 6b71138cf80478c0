"""Spans, whoever keeps them."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Literal, Protocol

from narthex.tracing.context import TraceContext

Kind = Literal["server", "client", "internal"]
Value = str | int | float | bool | tuple[str, ...]


class Span(Protocol):
    """A piece of work that is being done."""

    @property
    def context(self) -> TraceContext | None:
        """What further work goes under; None where there is no trace."""

    def note(self, name: str, value: Value) -> None:
        """Sets an attribute."""

    def fail(self, kind: str) -> None:
        """The work has failed, in a way of which there are few: never a text that may hold what callers said."""


class Tracer(Protocol):
    """Makes spans."""

    def span(
        self, name: str, kind: Kind, parent: TraceContext | None, attributes: Mapping[str, Value]
    ) -> AbstractContextManager[Span]:
        """A span as long as the block; an error that leaves the block fails it by its reason or its type."""

    def close(self) -> None:
        """Sends what is left; blocks."""


class Passing:
    """A span that nobody keeps: what it is under is passed on as it came."""

    __slots__ = ("context",)

    def __init__(self, context: TraceContext | None) -> None:
        self.context = context

    def __enter__(self) -> "Passing":
        return self

    def __exit__(self, *_: object) -> None: ...

    def note(self, name: str, value: Value) -> None: ...

    def fail(self, kind: str) -> None: ...


class PassOn:
    """The tracer of those who do not trace."""

    def span(self, name: str, kind: Kind, parent: TraceContext | None, attributes: Mapping[str, Value]) -> Passing:
        return Passing(parent)

    def close(self) -> None: ...
