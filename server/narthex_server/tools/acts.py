"""Administrative acts, for those who keep a record of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from narthex_server.errors import NarthexError
from narthex_server.principal import CALLER, REQUEST_ID, Principal


@dataclass(frozen=True, slots=True)
class Act:
    """Something that changed what this server does: `verb` (`upstream.add`) on `subject` (its name), and by whom.

    `reason` is that of the error that it failed with, empty where it did not. Never holds a secret.
    """

    verb: str
    subject: str
    principal: Principal
    request_id: str
    reason: str = ""


class Acts(Protocol):
    """Is asked before the acts of callers, and told of every act when it is over."""

    def enter(self) -> None:
        """Raises Unavailable where nothing may be done now; what was refused so is told all the same."""

    def on_act(self, act: Act) -> None: ...


class Unrecorded:
    """Acts where nobody keeps a record."""

    def enter(self) -> None: ...

    def on_act(self, act: Act) -> None: ...


SYSTEM = Principal("narthex", "")
"""Who acts where nobody called, as when a file has changed."""


@contextmanager
def acting(acts: Acts, verb: str, subject: str, by: Principal | None = None) -> Iterator[None]:
    """Tells of what is done within the block, well or not; `by` is the caller of the running RPC if not given."""
    reason = "CANCELLED"
    try:
        yield
        reason = ""
    except NarthexError as error:
        reason = error.reason
        raise
    except Exception:
        reason = "INTERNAL"
        raise
    finally:
        acts.on_act(Act(verb, subject, CALLER.get() if by is None else by, REQUEST_ID.get(), reason))
