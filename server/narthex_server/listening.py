"""Where calls come in: addresses, the gRPC server, and what stands around every call."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import grpc
from narthex import certificates
from narthex.keys import KeyRing
from narthex.settings import Address
from narthex.tracing.span import PassOn, Tracer
from prometheus_client import CollectorRegistry

from narthex_server.config.server import DELEGATE_TOKEN_VARIABLE, ServerConfig
from narthex_server.config.tls import Tls
from narthex_server.interceptors.around import Stack
from narthex_server.interceptors.auth import AuthInterceptor
from narthex_server.interceptors.errors import ErrorInterceptor
from narthex_server.interceptors.hops import HopInterceptor
from narthex_server.interceptors.metrics import MetricsInterceptor
from narthex_server.interceptors.requests import RequestInterceptor
from narthex_server.interceptors.tracing import TraceInterceptor
from narthex_server.metrics.registry import served
from narthex_server.services.registration import contract
from narthex_server.services.relay import CALL_TOOL, Relay
from narthex_server.tools.reach import Reach

MIN_PING_MS = 1000
PASS_ON = PassOn()


class AddressInUse(Exception):
    """An address that another process holds; `option` is the flag to change."""

    def __init__(self, option: str, address: Address, reason: object) -> None:
        super().__init__(f"cannot listen on {address}: {reason}; choose another with {option} HOST:PORT")


@contextmanager
def metrics_served(config: ServerConfig, registry: CollectorRegistry) -> Iterator[int]:
    """Serves /metrics within the block; gives the port. Raises AddressInUse."""
    with ExitStack() as stack:
        try:
            port = stack.enter_context(served(registry, config.metrics))
        except OSError as error:
            raise AddressInUse("--metrics", config.metrics, error.strerror or error) from error
        yield port


def key_ring(config: ServerConfig) -> KeyRing:
    """The keys that callers may show. Raises SettingsError."""
    keys = KeyRing.from_file(config.api_key_file) if config.api_key_file else KeyRing(())
    token = os.environ.get(DELEGATE_TOKEN_VARIABLE)
    return keys.with_delegate(token) if token else keys


def interceptors(
    config: ServerConfig, keys: KeyRing, registry: CollectorRegistry, reach: Reach, tracer: Tracer = PASS_ON
) -> Stack:
    """What stands around every call, whether it has a stream of its own or not."""
    return Stack(
        RequestInterceptor(),
        MetricsInterceptor(registry, contract()),
        ErrorInterceptor(),
        HopInterceptor(reach.instance),
        *(() if isinstance(tracer, PassOn) else (TraceInterceptor(tracer),)),
        AuthInterceptor(keys, required=config.api_key_file is not None),
    )


def grpc_server(config: ServerConfig, interceptor: Stack) -> grpc.aio.Server:
    """A server whose calls all pass the interceptor."""
    return grpc.aio.server(
        interceptors=[interceptor],
        options=[
            ("grpc.max_receive_message_length", config.max_message_bytes),
            ("grpc.max_send_message_length", config.max_message_bytes),
            ("grpc.so_reuseport", 0),  # else a second server takes the same port, and half of the calls
            # gRPC's own limit of five minutes ends the connections of clients that look more often whether they still
            # have one, as the bridge does, and the calls on them.
            ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_MS),
        ],
        maximum_concurrent_rpcs=config.max_concurrent_calls,
    )


def relaying(config: ServerConfig, around: Stack) -> Relay:
    """What runs the calls that share a stream, each as if it had one of its own."""
    return Relay(
        lambda responses, context: around.stream(responses, context, CALL_TOOL),
        max_calls=config.max_concurrent_calls,
        max_message_bytes=config.max_message_bytes,
    )


def bind(server: grpc.aio.Server, config: ServerConfig) -> int:
    """Takes the gRPC address; gives its port."""
    try:
        if credentials := tls_credentials(config.tls):
            return server.add_secure_port(str(config.grpc), credentials)
        return server.add_insecure_port(str(config.grpc))
    except RuntimeError as error:
        raise AddressInUse("--grpc", config.grpc, "the address is in use or not ours") from error


def tls_credentials(tls: Tls) -> grpc.ServerCredentials | None:
    """TLS as configured; None for plain text. With `client_ca` callers have to show a certificate (mTLS).

    Raises SettingsError.
    """
    if tls.cert is None or tls.key is None:
        return None
    certificates.check("tls", tls.cert, tls.key, tls.client_ca)
    return grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.cert.read_bytes())],
        root_certificates=tls.client_ca.read_bytes() if tls.client_ca else None,
        require_client_auth=tls.client_ca is not None,
    )
