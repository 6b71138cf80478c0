"""`equals = "main"`: this JSON value; 1 and 1.0 are equal, 1 and true are not."""

from typing import Any

from narthex_server.tools.policy.predicate import Judge

SLOW = False


def judge(value: object) -> Judge:
    if not _is_json(value):
        raise ValueError("must be a string, number, boolean, array or table of them")
    return lambda given, directory: _equal(given, value)


def _equal(one: Any, other: Any) -> bool:
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case (list(), list()):
            return len(one) == len(other) and all(map(_equal, one, other))
        case (dict(), dict()):
            return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
        case _:
            return bool(one == other)


def _is_json(value: object) -> bool:
    match value:
        case list():
            return all(map(_is_json, value))
        case dict():
            return all(map(_is_json, value.values()))
        case _:
            return isinstance(value, str | int | float)
