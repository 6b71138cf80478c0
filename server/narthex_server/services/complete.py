"""Every RPC of the contract answers, also one that is not built yet."""

from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from narthex_server.errors import Unimplemented

Service = TypeVar("Service", bound=type)


def complete(service: ServiceDescriptor) -> Callable[[Service], Service]:
    """Gives a servicer class the RPCs of `service` that it lacks; each of them says that it is not built yet."""

    def completed(servicer: Service) -> Service:
        for method in service.methods:
            if not hasattr(servicer, method.name):
                setattr(servicer, method.name, _refusal(method))
        return servicer

    return completed


def _refusal(method: MethodDescriptor) -> Callable[..., Any]:
    name = f"{method.containing_service.name}.{method.name}"

    def error() -> Unimplemented:
        return Unimplemented(f"{name} is in the contract, but this server does not have it yet", metadata={"rpc": name})

    async def unary(self: object, request: object, context: object) -> None:
        raise error()

    async def stream(self: object, request: object, context: object) -> AsyncIterator[None]:
        raise error()
        yield

    return stream if method.server_streaming else unary
