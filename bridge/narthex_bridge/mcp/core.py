"""What every face of MCP shares: the server seen through the contract, and what requests are answered with."""

import asyncio
import secrets

from narthex.settings import SettingsError
from narthex.tracing.span import Tracer

from narthex_bridge.caller import LOCAL
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.mcp.answers import Answers
from narthex_bridge.mcp.calls import Calls
from narthex_bridge.mcp.catalog import Catalog
from narthex_bridge.mcp.changes import Changes
from narthex_bridge.mcp.dispatcher import Dispatcher
from narthex_bridge.mcp.held_calls import HeldCalls
from narthex_bridge.mcp.subscriptions import Subscriptions, Tell
from narthex_bridge.mcp.tracing import PASS_ON, RequestSpans
from narthex_bridge.mcp.watches import Watches
from narthex_bridge.metrics import Metrics
from narthex_bridge.protocol.seal import Seal
from narthex_bridge.server.backend import Backend
from narthex_bridge.server.connection import Connection
from narthex_bridge.sessions.session import Session

MIN_SECRET_BYTES = 32
ENDING_S = 2.0


class Core:
    """The composition below the transports, which follows the server's changes from `start` until `close`."""

    def __init__(
        self, config: BridgeConfig, credential: str, metrics: Metrics, tell: Tell, tracer: Tracer = PASS_ON
    ) -> None:
        """`credential` is the bearer token that the server knows the bridge, or its user, by; it may be empty. `tell`
        sends the client of a session a message that answers no request."""
        self.connection = Connection(config, credential)
        self.changes = Changes()
        self.backend = Backend(self.connection)
        seal = Seal(_secret(config))
        self.catalog = Catalog(self.backend, self.changes, seal)
        self._held = HeldCalls(config.max_calls, config.input_timeout_s)
        self._watches = Watches(self.backend)
        calls = Calls(self.backend, seal, self._held)
        self.subscriptions = Subscriptions(self._watches, tell)
        answers = Answers(self.backend, self.catalog, calls, self.changes, self._watches, self.subscriptions)
        self.dispatcher = Dispatcher(answers, metrics, config.max_calls, RequestSpans(tracer))
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self.catalog.follow(LOCAL.tenant)  # most have no other, and it shows early whether there is a server

    def restored(self, session: Session) -> None:
        """A session goes on here that began elsewhere, or in another life of this process."""
        self.catalog.follow(session.caller.tenant)
        self.subscriptions.settle(session)

    def ended(self, session: Session) -> None:
        """A session is over; the server is told, where it may keep something for it."""
        if session.has_spoken:
            task = asyncio.create_task(self.backend.end_session(session.speaker))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        if self._ending:
            await asyncio.wait(self._ending, timeout=ENDING_S)
        await self.catalog.close()
        await self._watches.close()
        await self._held.close()
        await self.backend.close()
        await self.connection.close()


def _secret(config: BridgeConfig) -> bytes:
    if config.secret_file is None:
        return secrets.token_bytes(32)
    secret = config.secret_file.read_bytes().strip()
    if len(secret) < MIN_SECRET_BYTES:
        raise SettingsError(f"secret_file: {config.secret_file} holds less than {MIN_SECRET_BYTES} bytes")
    return secret
