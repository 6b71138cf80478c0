"""What is configured for runs of tools and for sessions, put together."""

import pytest
from narthex.settings import SettingsError
from narthex_server.agents import agent_host, chat_agents
from narthex_server.config.server import from_command_line
from narthex_server.metrics.registry import new_registry
from narthex_server.principal import LOCAL


async def made(*words: str):
    config = from_command_line(list(words))
    return await chat_agents(config, agent_host(config, new_registry()))


async def test_settings_are_the_defaults_of_requests():
    agents = await made(
        "--agent-parallel-calls", "3", "--agent-approval-timeout", "7", "--agent-result-bytes", "999",
        "--agent-kept-result-bytes", "4",
    )  # fmt: skip
    found = agents.defaults
    assert (found.parallel, found.approvals.seconds, found.results.bytes) == (3, 7, 999)
    assert agents.host.kept.keep(LOCAL, "four") and not agents.host.kept.keep(LOCAL, "fives")


async def test_sessions_are_in_memory_or_in_the_named_file(tmp_path):
    file = tmp_path / "sessions.db"
    for words in ((), ("--sessions-file", str(file))):
        agents = await made("--sessions-ttl", "60", *words)
        async with agents.sessions.open(LOCAL) as conversation:
            await conversation.save((), "demo")
    assert file.is_file()
    agents = await made("--sessions-file", str(file))
    assert [one.id for one in await agents.sessions.list(LOCAL)] == [conversation.id]


async def test_what_cannot_be_is_told_with_its_option(tmp_path):
    with pytest.raises(SettingsError, match="--agent-parallel-calls: must be at most 64, got 65"):
        await made("--agent-parallel-calls", "65")
    with pytest.raises(SettingsError, match="--sessions-file"):
        await made("--sessions-file", str(tmp_path))
