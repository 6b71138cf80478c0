"""Requests to a client, and its answers."""

import asyncio
import secrets
from collections.abc import Iterable

from orjson import Fragment

from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.events import InputRequest
from narthex_bridge.protocol.jsonrpc import Answer
from narthex_bridge.sessions.responder import Responder


class Asks:
    """What one client has been asked and has not answered yet."""

    def __init__(self) -> None:
        self._waiting: dict[str, asyncio.Future[Answer]] = {}

    async def ask(self, requests: Iterable[InputRequest], responder: Responder) -> list[tuple[str, Answer]]:
        """Sends all requests and returns their answers by the requests' own ids; cancelling ends the waiting."""
        asked: list[tuple[str, str]] = []  # ids of the requests, and those that the client knows
        loop = asyncio.get_running_loop()
        try:
            for request in requests:
                own = secrets.token_urlsafe(9)  # unlike that of any other bridge that serves this client
                asked.append((request.id, own))
                self._waiting[own] = loop.create_future()
                await responder.notify(jsonrpc.request(own, request.method, Fragment(request.params or b"{}")))
            return [(id, await self._waiting[own]) for id, own in asked]
        finally:
            for _, own in asked:
                del self._waiting[own]

    def answered(self, answer: Answer) -> bool:
        """Takes an answer; False where nothing, or nothing any more, waits for it."""
        future = self._waiting.get(str(answer.id))
        if future is None or future.done():
            return False
        future.set_result(answer)
        return True
