"""Who is told what the policy does."""

from typing import Literal, Protocol

Effect = Literal["allow", "deny", "confirm"]
Approval = Literal["approved", "declined", "unavailable"]
Limit = Literal["rate", "concurrency", "timeout"]


class PolicyObserver(Protocol):
    """`rule` is a name of the file, or DEFAULT."""

    def on_decision(self, rule: str, effect: Effect) -> None:
        """A call was decided, before any confirmation and limit."""

    def on_approval(self, rule: str, outcome: Approval) -> None:
        """A call that needs a yes has got its answer, or cannot get one."""

    def on_limit(self, rule: str, limit: Limit) -> None:
        """A call that was let through has met a limit of its rule."""

    def on_reload(self, ok: bool) -> None:
        """The file has another content; whether it is in force."""
