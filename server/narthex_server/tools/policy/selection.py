"""Where in the arguments a value is: a JSON pointer, or a simple path."""

import re
from collections.abc import Iterator
from typing import Any

EVERY = "*"


class Missing:
    """In the place of a value that is not there."""


MISSING = Missing()


class Misplaced:
    """In the place of a value whose place cannot be reached: something else than an object or an array is there."""


MISPLACED = Misplaced()


class Selection:
    """The values at `path`: `/a/b`, or `a.b`; `*` stands for every item of an array, an empty path for all arguments.

    In a pointer `~0` is `~` and `~1` is `/`. In a simple path `[0]` and `[*]` are written like `.0` and `.*`. Raises
    ValueError for a path that is neither.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._steps = _steps(path)

    def of(self, arguments: dict[str, Any]) -> list[Any]:
        """The values, in order; MISSING for one that is not there, and MISPLACED for one that cannot be."""
        return list(_walk(arguments, self._steps))


def _steps(path: str) -> tuple[str, ...]:
    if not path:
        return ()
    if path.startswith("/"):
        parts = path[1:].split("/")
        if any(re.search(r"~(?![01])", part) for part in parts):
            raise ValueError("is not a JSON pointer: `~` is written `~0`, and `/` in a name `~1`")
        return tuple(part.replace("~1", "/").replace("~0", "~") for part in parts)
    steps = tuple(re.sub(r"\[(\*|\d+)\]", r".\1", path).split("."))
    if not all(steps):
        raise ValueError("is neither a JSON pointer such as /a/b nor a path such as a.b or a[*].b")
    return steps


def _walk(value: Any, steps: tuple[str, ...]) -> Iterator[Any]:
    if not steps:
        yield value
        return
    step, rest = steps[0], steps[1:]
    match value:
        case list():
            if step == EVERY:
                for item in value:
                    yield from _walk(item, rest)
            elif not (step.isascii() and step.isdigit()):
                yield MISPLACED
            elif int(step) < len(value):
                yield from _walk(value[int(step)], rest)
            else:
                yield MISSING
        case dict() if step != EVERY:
            if step in value:
                yield from _walk(value[step], rest)
            else:
                yield MISSING
        case _:
            yield MISPLACED
