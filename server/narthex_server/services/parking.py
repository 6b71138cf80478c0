"""Calls that go on without their caller."""

from collections.abc import AsyncGenerator
from typing import Any, NoReturn, Protocol

from narthex.v1 import common_pb2 as common
from narthex.v1 import tool_pb2

from narthex_server.errors import Unimplemented
from narthex_server.services.relay import Context


def parks(options: common.CallOptions) -> bool:
    """Whether a call's work is to go on without its caller: then, or when it is made again, its events are followed."""
    return options.on_disconnect == common.ON_DISCONNECT_PARK or bool(options.idempotency_key)


class Parking(Protocol):
    """Makes tickets of calls, and follows them."""

    def stream(self, kind: str, request: Any, context: Context) -> AsyncGenerator[Any]:
        """The events of the work; closing it leaves the work as it is. Errors: those of the work."""
        ...

    async def result(self, kind: str, request: Any, context: Context) -> Any:
        """What the work comes to, where one message says it all. `request` is that of the streaming RPC."""
        ...

    def resume(self, call_id: str, after: int) -> AsyncGenerator[tool_pb2.CallToolResponse]:
        """The events of a parked call of a tool after that one. Errors: NotFound, OutOfRange; those of the call."""
        ...


class NoParking:
    """Where there is no lot, every call has its caller."""

    def stream(self, kind: str, request: Any, context: Context) -> AsyncGenerator[Any]:
        self._refuse()

    async def result(self, kind: str, request: Any, context: Context) -> Any:
        self._refuse()

    def resume(self, call_id: str, after: int) -> AsyncGenerator[tool_pb2.CallToolResponse]:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise Unimplemented("this server keeps no tickets, so it cannot park work, nor recognise repetitions")


NO_PARKING = NoParking()
