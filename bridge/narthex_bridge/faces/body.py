"""A request's JSON body, read member by member with errors that name the member."""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from narthex_bridge.http.refusal import Refusal

LARGEST_WHOLE = 2**32 - 1


class Fields:
    """The members of a JSON object. A member that is null counts as absent; every wrong one raises a Refusal (400)."""

    def __init__(self, members: Mapping[str, Any], path: str = "") -> None:
        self._members = members
        self._path = path
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return self._members.get(name) is not None

    def any(self, name: str) -> Any:
        """The value as it is; None where it is absent."""
        self._read.add(name)
        return self._members.get(name)

    def text(self, name: str) -> str | None:
        value = self.any(name)
        if value is None or isinstance(value, str):
            return value
        raise self.fault(name, "must be a string")

    def needed_text(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise self.fault(name, "is missing")
        return value

    def one_of(self, name: str, *choices: str) -> str | None:
        """A string that is one of `choices`."""
        value = self.text(name)
        if value is None or value in choices:
            return value
        raise self.fault(name, f"must be one of {', '.join(choices)}")

    def flag(self, name: str) -> bool | None:
        value = self.any(name)
        if value is None or isinstance(value, bool):
            return value
        raise self.fault(name, "must be true or false")

    def integer(self, name: str) -> int | None:
        value = self.any(name)
        if value is None or (isinstance(value, int) and not isinstance(value, bool)):
            return value
        raise self.fault(name, "must be an integer")

    def whole(self, name: str) -> int | None:
        """An integer from 0 to 2³² - 1."""
        value = self.integer(name)
        if value is None or 0 <= value <= LARGEST_WHOLE:
            return value
        raise self.fault(name, f"must be between 0 and {LARGEST_WHOLE}")

    def number(self, name: str) -> float | None:
        value = self.any(name)
        if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
            return value
        raise self.fault(name, "must be a number")

    def array(self, name: str) -> Sequence[Any]:
        """An array; empty where it is absent."""
        value = self.any(name)
        if value is None or isinstance(value, list):
            return value or ()
        raise self.fault(name, "must be an array")

    def texts(self, name: str) -> Sequence[str]:
        """An array of strings, or one string alone; empty where it is absent."""
        value = self.any(name)
        if value is None:
            return ()
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return value
        raise self.fault(name, "must be a string or an array of strings")

    def wholes(self, name: str) -> Sequence[int]:
        """An array of integers from 0 to 2³² - 1; empty where it is absent."""
        value = self.array(name)
        if all(isinstance(item, int) and not isinstance(item, bool) and 0 <= item <= LARGEST_WHOLE for item in value):
            return value
        raise self.fault(name, f"must hold integers between 0 and {LARGEST_WHOLE}")

    def object(self, name: str) -> "Fields | None":
        value = self.any(name)
        if value is None:
            return None
        if isinstance(value, dict):
            return Fields(value, f"{self._path}{name}.")
        raise self.fault(name, "must be an object")

    def objects(self, name: str) -> "Sequence[Fields]":
        """An array of objects; empty where it is absent."""
        found = []
        for index, value in enumerate(self.array(name)):
            if not isinstance(value, dict):
                raise self.fault(f"{name}[{index}]", "must be an object")
            found.append(Fields(value, f"{self._path}{name}[{index}]."))
        return found

    def json(self, name: str) -> bytes:
        """A JSON object, written again; empty where it is absent."""
        value = self.any(name)
        if value is None:
            return b""
        if not isinstance(value, dict):
            raise self.fault(name, "must be an object")
        return self.written(name)

    def written(self, name: str) -> bytes:
        """Any value, written again."""
        try:
            return orjson.dumps(self.any(name))
        except orjson.JSONEncodeError:
            raise self.fault(name, "is nested too deeply") from None

    def fault(self, name: str, what: str) -> Refusal:
        """The refusal of a member; `name` empty means the object itself."""
        param = f"{self._path}{name}" if name else self._path.rstrip(".")
        return Refusal(400, f"{param} {what}.", param=param, reason="INVALID_REQUEST")

    def unread(self) -> list[str]:
        """The names of the members that nobody asked for and that are not null."""
        return [name for name, value in self._members.items() if value is not None and name not in self._read]


def fields(body: bytes) -> Fields:
    """The members of a body. Raises Refusal (400) where it is no JSON object."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Refusal(400, f"The body is not valid JSON: {error}", reason="INVALID_JSON") from None
    if not isinstance(value, dict):
        raise Refusal(400, "The body must be a JSON object.", reason="INVALID_REQUEST")
    return Fields(value)
