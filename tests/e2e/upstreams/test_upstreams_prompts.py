"""Prompts of real servers of both eras: named and filled in."""

import json

import pytest
from narthex_server.errors import InvalidRequest, NotFound, Unavailable
from narthex_server.principal import LOCAL
from narthex_server.tools.completion import PromptReference, Typed
from narthex_server.tools.mcp_context import McpContext
from narthex_server.tools.presentation import Presentation
from narthex_server.tools.tool import CallContext, InputRequired

PLAIN = CallContext(LOCAL, "test")


@pytest.fixture
def servers(script):
    """One of each era."""
    return {"one": script("library", "2025-11-25", "one"), "two": script("library", "2026-07-28", "two")}


async def test_prompts_are_listed_under_their_servers_names_with_all_that_they_have(gateway, servers):
    async with gateway(servers) as running:
        prompts = running.catalog.view(LOCAL).prompts.list(LOCAL)
        assert [(one.name, one.server) for one in prompts] == [("one__greet", "one"), ("two__greet", "two")]
        first = prompts[0]
        assert (first.title, first.description, json.loads(first.meta)) == ("Greeting", "one", {"n": 2})
        assert json.loads(first.icons)[0]["src"].startswith("data:")
        who, how = first.arguments
        assert (who.name, who.title, who.description, who.required) == ("who", "Who", "to greet", True)
        assert (how.name, how.title, how.required) == ("how", "", False)


@pytest.mark.parametrize("prefix", ["", "p"])
async def test_prompts_of_the_same_name_are_told_apart(gateway, servers, prefix):
    async with gateway(servers, presentation=Presentation(prefix)) as running:
        plain, other = (one.name for one in running.catalog.view(LOCAL).prompts.list(LOCAL))
        assert plain == ("p_greet" if prefix else "greet") and other.startswith(f"{plain}_")
        filled = await running.catalog.view(LOCAL).prompts.fill(other, {"who": "Ada"}, PLAIN)
        assert "from two" in filled.messages[0].content.decode()


async def test_a_prompt_is_filled_in_under_each_of_its_names(gateway, servers):
    async with gateway(servers) as running:
        for name in ("one__greet", "two__greet", "two::greet", "two.greet"):
            filled = await running.catalog.view(LOCAL).prompts.fill(name, {"who": "Ada"}, PLAIN)
            assert (filled.description, json.loads(filled.meta)) == ("A greeting", {"got": True})
            assert filled.messages[0].role == "user"
            assert json.loads(filled.messages[0].content) == {"type": "text", "text": f"Hello Ada from {name[:3]}"}


async def test_what_cannot_be_filled_in_says_why(gateway, servers):
    async with gateway({**servers, "gone": {"command": "no-such-command"}}) as running:
        with pytest.raises(InvalidRequest) as caught:
            await running.catalog.view(LOCAL).prompts.fill("one__greet", {"how": "x"}, PLAIN)
        assert [violation.field for violation in caught.value.violations] == ["arguments.who"]
        for name in ("one__greet", "two__greet"):
            with pytest.raises(InvalidRequest, match="not like that"):
                await running.catalog.view(LOCAL).prompts.fill(name, {"who": "x", "how": "wrongly"}, PLAIN)
        with pytest.raises(NotFound) as unknown:
            await running.catalog.view(LOCAL).prompts.fill("one__nothing", {}, PLAIN)
        assert (unknown.value.reason, unknown.value.metadata) == ("PROMPT_NOT_FOUND", {"prompt": "one__nothing"})
        with pytest.raises(Unavailable, match="no-such-command"):
            await running.catalog.view(LOCAL).prompts.fill("gone__greet", {}, PLAIN)


async def test_an_upstream_may_want_a_prompt_asked_for_again(gateway, script):
    async with gateway({"one": script("library", "2026-07-28", "one")}) as running:
        arguments = {"who": "Ada", "how": "asking"}
        asked = await running.catalog.view(LOCAL).prompts.fill("one__greet", arguments, PLAIN)
        assert isinstance(asked, InputRequired) and (asked.requests, asked.request_state) == ((), "again")
        again = CallContext(LOCAL, "test", mcp=McpContext(request_state="again"))
        assert (
            await running.catalog.view(LOCAL).prompts.fill("one__greet", arguments, again)
        ).description == "A greeting"


async def test_suggestions_come_from_the_prompts_own_server(gateway, servers):
    async with gateway(servers) as running:
        found = await running.catalog.complete(PromptReference("two__greet"), Typed("who", "", {"how": "x"}), PLAIN)
        assert found.values == ("two", "how")
        with pytest.raises(NotFound):
            await running.catalog.complete(PromptReference("two__nothing"), Typed("who", "", {}), PLAIN)
