"""One part of the page, which may fail by itself."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from narthex_bridge.caller import Caller
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.ui.questions import Question

FAILED_S, ABSENT_S = 5.0, 60.0
"""How long a question is not repeated that failed, or that this server does not know."""


@dataclass(slots=True)
class Part:
    """What a question is answered: `found`, `absent` where the server does not offer it, or the text of a `failure`."""

    question: Question
    _told: Mapping[str, Any] = field(default_factory=dict, init=False)
    _again: float = field(default=0.0, init=False)

    async def tell(self, caller: Caller) -> Mapping[str, Any]:
        if time.monotonic() < self._again:
            return self._told
        try:
            return {"found": await self.question(caller)}
        except BackendError as failure:
            absent = failure.status == "UNIMPLEMENTED"
            self._told = MappingProxyType({"absent": True} if absent else {"failure": failure.message})
            self._again = time.monotonic() + (ABSENT_S if absent else FAILED_S)
        return self._told
