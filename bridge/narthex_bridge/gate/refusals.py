"""How a request is turned away."""

from typing import Literal, get_args

from narthex_bridge.faces.refusal import Refusal

Header = tuple[str, str]
Reason = Literal[
    "host", "origin", "credential", "scope", "issuer",
    "total_rate", "address_rate", "principal_rate", "body_size", "body_time",
]  # fmt: skip
REASONS: tuple[Reason, ...] = get_args(Reason)


class Refused(Exception):
    """A request may not pass; `refusal` is what its sender is told, and holds nothing that it sent."""

    def __init__(self, reason: Reason, refusal: Refusal) -> None:
        super().__init__(reason)
        self.reason = reason
        self.refusal = refusal
