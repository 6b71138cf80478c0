"""The one shape of our interceptors: something that stands around a whole call, unary or streaming."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing
from dataclasses import dataclass
from typing import Any

from grpc.aio import ServicerContext
from grpc_interceptor import AsyncServerInterceptor


@dataclass(slots=True)
class Traffic:
    """What a call has sent so far; counted here, in one place, so that a message costs one addition."""

    sent: int = 0


class AroundInterceptor(AsyncServerInterceptor):
    """Runs `around` from before the handler starts until its reply is made or its stream has ended.

    A stream is wrapped as a generator, so `around` sees its errors, its cancellation and its true end, and the
    handler's generator is closed at once when the caller leaves.
    """

    @abstractmethod
    def around(
        self, method: str, context: "ServicerContext[Any, Any]", traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        """Stands around the call of `method` (`/package.Service/Method`)."""

    async def intercept(
        self, method: Callable[..., Any], request_or_iterator: Any, context: Any, method_name: str
    ) -> Any:
        response = method(request_or_iterator, context)
        if hasattr(response, "__aiter__"):
            return self.stream(response, context, method_name)
        traffic = Traffic()
        try:
            async with self.around(method_name, context, traffic):
                reply = await response
                traffic.sent = 1
        finally:
            response.close()  # a coroutine that was never started, where `around` refused the call
        return reply

    async def stream(self, responses: Any, context: Any, method_name: str) -> AsyncIterator[Any]:
        """The responses of a streaming call of `method_name`, with `around` around them."""
        traffic = Traffic()
        async with self.around(method_name, context, traffic), aclosing(responses):
            async for response in responses:
                traffic.sent += 1
                yield response


class Stack(AroundInterceptor):
    """Several as one, outermost first: a message then passes one generator instead of one for each."""

    def __init__(self, *interceptors: AroundInterceptor) -> None:
        self._interceptors = interceptors

    def around(
        self, method: str, context: "ServicerContext[Any, Any]", traffic: Traffic
    ) -> AbstractAsyncContextManager[None]:
        return _Nested(one.around(method, context, traffic) for one in self._interceptors)


class _Nested(AsyncExitStack):
    """One inside the other. All that stands around calls is such classes: a generator would cost five times as much."""

    def __init__(self, parts: Iterator[AbstractAsyncContextManager[None]]) -> None:
        super().__init__()
        self._parts = parts

    async def __aenter__(self) -> None:  # type: ignore[override]
        try:
            for part in self._parts:
                await self.enter_async_context(part)
        except BaseException as error:
            if not await self.__aexit__(type(error), error, error.__traceback__):
                raise
