"""The prompts of all upstreams."""

from collections.abc import Iterable, Mapping

from narthex.scopes import ALL_TOOLS

from narthex_server.errors import InvalidRequest, Violation
from narthex_server.principal import Principal
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.offers.named import NamedOffers
from narthex_server.tools.once import Once
from narthex_server.tools.prompt import FilledPrompt, Prompt
from narthex_server.tools.server import PromptServer
from narthex_server.tools.tool import CallContext, InputRequired


class PromptOffers:
    """Prompts by name, listed and filled in; which ones a caller has, its scope of tools says too."""

    def __init__(self, inspection: Inspection | None = None, told: Once | None = None) -> None:
        looked = inspection or Inspection()
        self._offers: NamedOffers[Prompt, PromptServer] = NamedOffers(
            "prompt",
            lambda server: looked.prompts(server, server.prompts),
            lambda server: server.presentation.without_tools(),
            told,
        )

    @property
    def all(self) -> tuple[Prompt, ...]:
        """The prompts of all servers that are up."""
        return self._offers.listed(ALL_TOOLS)

    def list(self, principal: Principal) -> tuple[Prompt, ...]:
        """The prompts that this caller can have now; those of an upstream that is down are left out."""
        return self._offers.listed(principal.tools)

    def refresh(self, servers: Iterable[PromptServer]) -> None:
        self._offers.refresh((), servers)

    def get(self, name: str, principal: Principal) -> Prompt:
        """The prompt of this name or alias; raises NotFound or Unavailable."""
        return self._offers.find(name, principal.tools).item

    def owner(self, name: str, principal: Principal) -> tuple[PromptServer, str]:
        """The server that has this prompt, and what it calls it; raises NotFound or Unavailable."""
        offer = self._offers.find(name, principal.tools)
        assert offer.server is not None, "there are no prompts of our own"
        return offer.server, offer.own_name

    async def fill(self, name: str, arguments: Mapping[str, str], context: CallContext) -> FilledPrompt | InputRequired:
        """The prompt with its arguments put in.

        Raises:
            NotFound: no prompt has this name, or its caller may not have it; the two cannot be told apart.
            InvalidRequest: arguments are missing, each named, or do not fit.
            Unavailable, DeadlineExceeded, UpstreamRefused: its upstream is down, too slow, or fails.
        """
        prompt = self._offers.find(name, context.principal.tools).item
        missing = [one.name for one in prompt.arguments if one.required and one.name not in arguments]
        if missing:
            raise InvalidRequest(
                f"prompt {prompt.name!r} needs the arguments: {', '.join(missing)}",
                reason="MISSING_PROMPT_ARGUMENTS",
                metadata={"prompt": prompt.name},
                violations=[Violation(f"arguments.{name}", "is required") for name in missing],
            )
        server, own_name = self.owner(name, context.principal)
        return await server.fill(own_name, dict(arguments), context)
