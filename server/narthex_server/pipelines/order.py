"""What is to be loaded."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from narthex.settings import NamedUrl

from narthex_server.config.server import Compute
from narthex_server.errors import Violation
from narthex_server.pipelines.request import refuse

_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
_SHORTEST_CONTEXT, _MOST_SLOTS = 16, 1024


@dataclass(frozen=True, slots=True)
class Wanted:
    """How a model is to be loaded; what is empty or 0 is the server's default."""

    compute: str = ""
    max_context: int = 0
    max_slots: int = 0


@dataclass(frozen=True, slots=True)
class Order:
    """Which model to load under which name, and how; one behind a URL runs elsewhere."""

    name: str
    source: Path | NamedUrl
    wanted: Wanted = Wanted()

    def check(self) -> None:
        """Errors: InvalidRequest that names the fields at fault."""
        found, wanted, kinds = [], self.wanted, get_args(Compute)
        if not _NAME.fullmatch(self.name):
            found.append(Violation("name", "must be 1 to 128 of letters, digits, `_`, `-`, `.`, `:` and `/`"))
        if wanted.compute and wanted.compute not in kinds:
            found.append(Violation("compute", f"must be one of {', '.join(kinds)}, got {wanted.compute!r:.40}"))
        if wanted.max_context and wanted.max_context < _SHORTEST_CONTEXT:
            found.append(Violation("max_context", f"must be at least {_SHORTEST_CONTEXT}, got {wanted.max_context}"))
        if wanted.max_slots > _MOST_SLOTS:
            found.append(Violation("max_slots", f"must be at most {_MOST_SLOTS}, got {wanted.max_slots}"))
        refuse(found)
