"""How an upstream fails a call, as errors that callers can go by."""

from time import time

from narthex_server.errors import DeadlineExceeded, Unavailable
from narthex_server.lot.refusals import STARTING
from narthex_server.tools.server import ServerState, ServerStatus


def down(status: ServerStatus) -> Unavailable:
    """What a call is answered with while there is no connection: why, and when the next attempt is."""
    why = f": {status.reason}" if status.reason else ""
    wait = round((status.next_attempt - time()) * 1000)
    return Unavailable(
        f"upstream {status.name!r} is {status.state.value}{why}",
        reason=reason_down(status),
        metadata={"upstream": status.name} | ({"retry_after_ms": str(wait)} if wait > 0 else {}),
        retry_after=wait / 1000 if wait > 0 else None,
    )


def reason_down(status: ServerStatus) -> str:
    """Whether it is the first connection that is not there yet, or one that was lost or failed."""
    return STARTING if status.state is ServerState.STARTING else "UPSTREAM_UNAVAILABLE"


def late(upstream: str, what: str) -> DeadlineExceeded:
    """`what` says what did not come in time."""
    return DeadlineExceeded(
        f"upstream {upstream!r} {what}", reason="UPSTREAM_DEADLINE_EXCEEDED", metadata={"upstream": upstream}
    )
