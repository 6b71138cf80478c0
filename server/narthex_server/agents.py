"""From a configuration to what runs of tools have in common."""

import time

from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.agent.host import Host
from narthex_server.agent.options import MAX_PARALLEL, AgentOptions, Approvals, ResultLimits
from narthex_server.agent.sessions.memory import MemorySessions
from narthex_server.agent.sessions.sessions import SessionLimits, Sessions
from narthex_server.agent.sessions.sqlite import SqliteSessions
from narthex_server.agent.sessions.store import SessionStore
from narthex_server.config.server import ServerConfig
from narthex_server.metrics.agent import AgentMetrics
from narthex_server.services.agents import Agents
from narthex_server.services.resumable import RunLimits, Runs
from narthex_server.sync.locks import UNMETERED, Locks
from narthex_server.tools.inputs import RunningCalls
from narthex_server.tools.kept_results import KeptLimits, KeptResults
from narthex_server.worker import in_thread


def agent_host(config: ServerConfig, registry: CollectorRegistry) -> Host:
    """What runs share with the calls of tools."""
    running, settings = RunningCalls(), config.agent
    kept = KeptLimits(settings.kept_result_seconds, settings.kept_result_bytes)
    return Host(running, KeptResults(kept), AgentMetrics(registry, lambda: running.waiting))


async def chat_agents(config: ServerConfig, host: Host, locks: Locks = UNMETERED) -> Agents:
    """What chats have beside models and tools; raises SettingsError."""
    settings, sessions = config.agent, config.sessions
    if settings.parallel_calls > MAX_PARALLEL:
        raise SettingsError(f"--agent-parallel-calls: must be at most {MAX_PARALLEL}, got {settings.parallel_calls}")
    limits = SessionLimits(sessions.max_count, sessions.max_bytes, sessions.max_messages, sessions.max_total_bytes)
    return Agents(
        host,
        AgentOptions(
            tool_seconds=config.tool_timeout,
            parallel=settings.parallel_calls,
            approvals=Approvals(seconds=settings.approval_timeout),
            results=ResultLimits(settings.result_bytes),
        ),
        Sessions(await session_store(config, locks), limits),
        Runs(RunLimits(settings.max_runs, settings.run_kept_bytes, settings.run_seconds, settings.run_kept_seconds)),
    )


async def session_store(config: ServerConfig, locks: Locks) -> SessionStore:
    """In memory, or in the configured file. Raises SettingsError."""
    path, ttl = config.sessions.file, config.sessions.ttl
    if path is None:
        return MemorySessions(ttl, time.time)
    try:
        return await in_thread(SqliteSessions, path, ttl, time.time, locks)
    except OSError as error:
        raise SettingsError(f"--sessions-file: {path} cannot be used: {error}") from error
