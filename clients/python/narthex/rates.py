"""How often something may happen."""

import re
from dataclasses import dataclass
from typing import Self

UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}
OFF = "off"


@dataclass(frozen=True, slots=True)
class Rate:
    """`count` times in `seconds`, written 100/minute; no limit, written `off`, is a count of 0."""

    count: int
    seconds: int

    @classmethod
    def parse(cls, text: str) -> Self:
        if text == OFF:
            return cls(0, 1)
        written = re.fullmatch(r"([1-9]\d{0,8})/([a-z]+)", text)
        if written is None or written[2] not in UNITS:
            raise ValueError(f"is neither {OFF} nor a number per {', '.join(UNITS)}, such as 100/minute")
        return cls(int(written[1]), UNITS[written[2]])

    def __str__(self) -> str:
        unit = next(name for name, seconds in UNITS.items() if seconds == self.seconds)
        return f"{self.count}/{unit}" if self.count else OFF


UNLIMITED = Rate.parse(OFF)
