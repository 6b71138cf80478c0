"""Where a lot's database is, and which schema of it is the lot's."""

import re
from dataclasses import dataclass, field
from typing import Self

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

SCHEMES = ("postgresql://", "postgres://")
DEFAULT_SCHEMA = "narthex"
_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,39}")


@dataclass(frozen=True, slots=True)
class Location:
    """A URL as libpq reads it, and beside its parameters `schema`; the URL may hold a password, and is never shown."""

    url: str = field(repr=False)
    schema: str = DEFAULT_SCHEMA

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises ValueError, whose text repeats nothing of the URL."""
        if not text.startswith(SCHEMES):
            raise ValueError("is not a URL that begins with postgresql://")
        address, mark, query = text.partition("?")
        parameters = [parameter for parameter in query.split("&") if parameter]
        schemas = [one.removeprefix("schema=") for one in parameters if one.startswith("schema=")] or [DEFAULT_SCHEMA]
        if len(schemas) > 1 or not _SCHEMA.fullmatch(schemas[0]):
            raise ValueError("names a schema that is not 1 to 40 small letters, digits and _, or two of them")
        rest = "&".join(one for one in parameters if not one.startswith("schema="))
        url = f"{address}{mark}{rest}" if rest else address
        try:
            conninfo_to_dict(url)
        except ProgrammingError:
            raise ValueError("is not a URL that libpq can read") from None
        return cls(url, schemas[0])
