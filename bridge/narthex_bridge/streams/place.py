"""Where an event stands: its stream and its number, which its id on the wire tells."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

_ID = re.compile(r"([0-9a-f]{8})-([0-9a-z]{1,16})-([0-9]{1,15})")


@dataclass(frozen=True, slots=True)
class Place:
    """The place after event `number` of a stream; 0 is its begin."""

    stream: str
    number: int

    @classmethod
    def read(cls, session: str, event_id: str) -> Self | None:
        """The place that an id names; None where it is none of this session."""
        found = _ID.fullmatch(event_id)
        if found is None or found[1] != _mark(session):
            return None
        return cls(found[2], int(found[3]))


def prefix(session: str, stream: str) -> str:
    """What the ids of a stream's events begin with; their number follows."""
    return f"{_mark(session)}-{stream}-"


def _mark(session: str) -> str:
    return hashlib.blake2b(session.encode(), digest_size=4).hexdigest()
