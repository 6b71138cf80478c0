"""Everything that one caller sees at a moment."""

import asyncio
from collections.abc import Callable
from dataclasses import asdict

import orjson

from narthex_bridge.caller import Caller
from narthex_bridge.protocol.failures import default_text
from narthex_bridge.ui.part import Part
from narthex_bridge.ui.questions import Questions
from narthex_bridge.ui.standing import Standing


class Snapshot:
    """Is made anew with each `take`."""

    def __init__(self, caller: Caller, questions: Questions, standing: Callable[[], Standing], *, chat: bool) -> None:
        """`chat` says whether the page may offer one."""
        self._caller = caller
        self._questions = questions
        self._parts = {name: Part(question) for name, question in questions.by_part.items()}
        self._standing = standing
        self._chat = chat

    async def take(self) -> bytes:
        """As a JSON object, which is the same while nothing changes."""
        told: dict[str, object] = {
            "caller": {"name": self._caller.name, "tenant": self._caller.tenant},
            "chat": self._chat,
            "bridge": asdict(self._standing()),
        }
        if self._questions.reachable:
            answers = await asyncio.gather(*(part.tell(self._caller) for part in self._parts.values()))
            told |= {name: dict(answer) for name, answer in zip(self._parts, answers, strict=True)}
        else:
            told["lost"] = default_text("UNAVAILABLE")
        return orjson.dumps(told)
