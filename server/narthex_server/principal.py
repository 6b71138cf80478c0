"""Who is calling, and under which request id."""

from contextvars import ContextVar
from dataclasses import dataclass, field

from narthex.scopes import ALL_TOOLS, ToolScope


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the name of its key, the tenant that its work and limits belong to, and its tools.

    An `admin` may change what the server offers to all. `key` is the server's key that its rights are of, and `voucher`
    that of who speaks for it; both are empty where there is none.
    """

    name: str
    tenant: str
    tools: ToolScope = ALL_TOOLS
    admin: bool = False
    key: str = field(default="", compare=False)
    voucher: str = field(default="", compare=False)


REQUEST_ID_HEADER, ASSERTED_HEADER, SESSION_HEADER = "x-request-id", "x-narthex-principal", "x-narthex-session"
"""The metadata of a call that say its id, for whom a delegate makes it, and which session of the caller it is of."""

LOCAL = Principal("local", "default", admin=True)
"""The caller of a server that has no API keys configured."""

CALLER: ContextVar[Principal] = ContextVar("caller", default=LOCAL)
"""The caller of the running call; set by the auth interceptor, in the call's own context."""

SESSION: ContextVar[str] = ContextVar("session", default="")
"""The caller's own name for the session that the running call belongs to, empty for none; set with CALLER."""

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the running call, which every log line and error of it carries; set by the request interceptor."""
