"""What chats have beside models and tools."""

import time
from dataclasses import dataclass, field

from narthex_server.agent.host import Host
from narthex_server.agent.options import AgentOptions
from narthex_server.agent.sessions.memory import MemorySessions
from narthex_server.agent.sessions.sessions import Sessions
from narthex_server.services.resumable import Runs

DAY = 86400.0


def _in_memory() -> Sessions:
    return Sessions(MemorySessions(DAY, time.time))


@dataclass(frozen=True, slots=True)
class Agents:
    """What runs share, what they do where a request does not say, kept conversations, and runs without a stream."""

    host: Host = field(default_factory=Host)
    defaults: AgentOptions = AgentOptions()
    sessions: Sessions = field(default_factory=_in_memory)
    runs: Runs = field(default_factory=Runs)
