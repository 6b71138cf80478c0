"""What each request of an MCP client is answered with."""

import asyncio

from orjson import Fragment

from narthex_bridge.mcp.calls import Calls, Origin
from narthex_bridge.mcp.catalog import Catalog
from narthex_bridge.mcp.changes import Changes
from narthex_bridge.mcp.subscriptions import Subscriptions
from narthex_bridge.mcp.watches import Watches
from narthex_bridge.outbox import Outbox
from narthex_bridge.protocol import jsonrpc, methods, results
from narthex_bridge.protocol.effects import (
    CallTool,
    Complete,
    Discover,
    GetPrompt,
    Initialize,
    List,
    Listen,
    Ping,
    ReadResource,
    SetLogLevel,
    Subscribe,
    Unsubscribe,
)
from narthex_bridge.protocol.jsonrpc import RpcError
from narthex_bridge.protocol.notifications import acknowledged, list_changed, updated
from narthex_bridge.server.backend import Backend


class Answers:
    """One response to one request."""

    def __init__(
        self,
        backend: Backend,
        catalog: Catalog,
        calls: Calls,
        changes: Changes,
        watches: Watches,
        subscriptions: Subscriptions,
    ) -> None:
        self._backend = backend
        self._catalog = catalog
        self._calls = calls
        self._changes = changes
        self._watches = watches
        self._subscriptions = subscriptions
        self._listening: set[Outbox] = set()

    async def answer(self, origin: Origin) -> bytes:
        """The response. Raises RpcError and BackendError."""
        request, session = origin.request, origin.session
        era, caller = session.era, session.caller
        match methods.read(request, era):
            case CallTool() as effect:
                return await self._calls.tool(effect, origin)
            case List(kind, cursor):
                page = await self._catalog.page(kind, caller, origin.request_id, cursor, era)
                return jsonrpc.result(request.id, Fragment(page))
            case ReadResource() as effect:
                return await self._calls.resource(effect, origin)
            case GetPrompt() as effect:
                return await self._calls.prompt(effect, origin)
            case Complete() as effect:
                found = await self._backend.complete(session.speaker, origin.request_id, effect)
                return jsonrpc.result(request.id, results.suggested(era, found))
            case Initialize(wanted, capabilities):
                if session.initialized:
                    raise RpcError(jsonrpc.INVALID_REQUEST, "This session is already initialized.")
                session.era, session.capabilities, session.initialized = wanted, jsonrpc.compact(capabilities), True
                self._catalog.follow(caller.tenant)
                return jsonrpc.result(request.id, results.initialized(wanted))
            case Discover():
                return jsonrpc.result(request.id, results.discovered(era))
            case Ping():
                return jsonrpc.result(request.id, {})
            case SetLogLevel(level):
                session.log_level = level
                return jsonrpc.result(request.id, {})
            case Subscribe(uri):
                if uri not in session.subscriptions and len(session.subscriptions) >= methods.MAX_WATCHED:
                    raise RpcError(
                        jsonrpc.INVALID_PARAMS, f"A session watches at most {methods.MAX_WATCHED} resources."
                    )
                session.subscriptions.add(uri)
                self._subscriptions.settle(session)
                await self._watches.watching(session.speaker, uri)
                return jsonrpc.result(request.id, {})
            case Unsubscribe(uri):
                session.subscriptions.discard(uri)
                self._subscriptions.settle(session)
                return jsonrpc.result(request.id, {})
            case Listen() as effect:
                return await self._listen(effect, origin)

    def close(self) -> None:
        """Ends what listens, each with its response."""
        for outbox in list(self._listening):
            outbox.close()

    async def _listen(self, effect: Listen, origin: Origin) -> bytes:
        id, caller, outbox = origin.request.id, origin.session.speaker, Outbox()
        self._catalog.follow(caller.tenant)

        def changed(tenant: str, kind: str) -> None:
            if tenant == caller.tenant and kind in effect.kinds:
                deliver(list_changed(kind, id))

        def deliver(message: bytes) -> None:
            if not outbox.offer(message):
                outbox.close()  # a client that has stopped reading; it lists anew when it listens again

        ends = [self._changes.listen(changed)]
        ends += [self._watches.listen(caller, uri, lambda uri: deliver(updated(uri, id))) for uri in effect.uris]
        self._listening.add(outbox)
        try:
            await asyncio.gather(*(self._watches.watching(caller, uri) for uri in effect.uris))
            await origin.responder.notify(acknowledged(effect, id))
            while (messages := await outbox.take(_FOR_EVER_S)) is not None:
                for message in messages:
                    await origin.responder.notify(message)
            return jsonrpc.result(id, results.listened(id))
        finally:
            self._listening.discard(outbox)
            for end in ends:
                end()


_FOR_EVER_S = 86_400.0
