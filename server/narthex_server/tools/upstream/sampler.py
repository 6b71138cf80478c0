"""Who answers sampling requests instead of callers."""

from collections.abc import Mapping
from typing import Any, Protocol

from narthex_server.tools.tool import CallContext


class Sampler(Protocol):
    """A language model behind `sampling/createMessage`."""

    async def sample(self, params: Mapping[str, Any], context: CallContext) -> dict[str, Any]:
        """The CreateMessageResult for a request's params, within the call `context`; raises NarthexError."""
