"""An upstream as a tenant sees it whose own connection offers other things than the rest see."""

from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import replace
from typing import Any

from narthex_server.principal import Principal
from narthex_server.tools.audience import Audience
from narthex_server.tools.completion import Completion, Reference, Typed
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.results.rule import CacheRule
from narthex_server.tools.server import Line, ServerStatus, UpstreamServer, Vitals
from narthex_server.tools.tool import CallContext, InputRequired, Tool, ToolEvent


class Face:
    """An UpstreamServer that offers what `own` lists, and is `whole` otherwise, which finds the caller's connection."""

    def __init__(self, whole: UpstreamServer, own: UpstreamServer) -> None:
        self._whole = whole
        self._own = own

    @property
    def name(self) -> str:
        return self._whole.name

    @property
    def presentation(self) -> Presentation:
        return self._whole.presentation

    @property
    def tenants(self) -> Audience:
        return self._whole.tenants

    @property
    def status(self) -> ServerStatus:
        return replace(self._whole.status, tools=len(self.tools))

    @property
    def vitals(self) -> Vitals:
        return self._whole.vitals

    def vitals_of(self, tenant: str) -> Vitals:
        return self._whole.vitals_of(tenant)

    @property
    def tools(self) -> tuple[Tool, ...]:
        return self._own.tools

    @property
    def cache(self) -> CacheRule | None:
        return self._whole.cache

    @property
    def has_resources(self) -> bool:
        return self._own.has_resources

    @property
    def resources(self) -> tuple[Resource, ...]:
        return self._own.resources

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        return self._own.templates

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self._own.prompts

    def seen_by(self, tenant: str) -> UpstreamServer:
        return self._whole.seen_by(tenant)

    def edition(self, context: CallContext) -> Hashable:
        return self._whole.edition(context)

    def start(self, changed: Callable[[], None]) -> None:
        self._whole.start(changed)

    async def settled(self) -> None:
        await self._whole.settled()

    def reconnect(self, tenant: str | None = None) -> None:
        self._whole.reconnect(tenant)

    def end_session(self, principal: Principal, session: str) -> None:
        self._whole.end_session(principal, session)

    async def drain(self, grace: float) -> None:
        await self._whole.drain(grace)

    async def stop(self) -> None:
        await self._whole.stop()

    def call(self, tool: str, arguments: dict[str, Any], context: CallContext) -> AsyncIterator[ToolEvent]:
        return self._whole.call(tool, arguments, context)

    async def read(self, uri: str, context: CallContext) -> Contents | InputRequired:
        return await self._whole.read(uri, context)

    async def fill(self, prompt: str, arguments: dict[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        return await self._whole.fill(prompt, arguments, context)

    async def complete(self, reference: Reference, typed: Typed, context: CallContext) -> Completion:
        return await self._whole.complete(reference, typed, context)

    def line(self, context: CallContext) -> Line:
        return self._whole.line(context)
