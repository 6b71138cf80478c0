"""What a request's text has to look like, as the engine sees it."""

from typing import Protocol

from narthex_server.engine.decoder import Logits


class Grammar(Protocol):
    """Which tokens may come next; used by the engine thread alone, from the request's first token to its last.

    Where the text is complete it allows a stop token, and where it can only be complete nothing else.
    """

    def mask(self, logits: Logits) -> None:
        """Set the logits [vocab] of all tokens that may not come next to -inf."""
        ...

    def accept(self, token: int) -> None:
        """Go on by a token that was allowed."""
        ...
