"""Responses made in the background: the unmodified openai package, two bridges, the server and its demo model."""

import asyncio
from contextlib import AsyncExitStack

import openai
import pytest

from tests.e2e.processes import started

CLOCK = {
    "type": "mcp", "server_label": "time", "require_approval": "never", "allowed_tools": ["get_current_time"],
}  # fmt: skip
ENDLESS = {"model": "demo", "input": "Hello!", "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams), "--threads", "1", "--max-slots", "2")


@pytest.fixture
async def clients(server):
    """Of two bridges, which know nothing of each other."""
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(2):
            bridge = await stack.enter_async_context(
                started("narthex_bridge.main", "--http", "127.0.0.1:0", "--server", server.grpc)
            )
            client = openai.AsyncOpenAI(base_url=f"http://{bridge['http']}/v1", api_key="none", max_retries=0)
            made.append(await stack.enter_async_context(client))
        yield made


@pytest.fixture
def client(clients):
    return clients[0]


async def settled_response(client, id):
    async with asyncio.timeout(60):
        async for _ in await client.responses.retrieve(id, stream=True):
            pass
    return await client.responses.retrieve(id)


async def test_it_is_made_while_nobody_waits_and_says_what_a_live_one_does(clients):
    asked = {"model": "demo", "input": "Hello!", "temperature": 0, "max_output_tokens": 24, "instructions": "Be brief."}
    begun = await clients[0].responses.create(**asked, background=True, store=True, metadata={"a": "b"})
    assert begun.status in ("queued", "in_progress") and begun.background and begun.output == [] and not begun.usage
    assert (begun.model, begun.metadata) == ("demo", {"a": "b"})
    made = await settled_response(clients[1], begun.id)
    live = await clients[0].responses.create(**asked)
    assert made.status == live.status and made.output_text == live.output_text != ""
    assert (
        made.usage.total_tokens == live.usage.total_tokens
        and made.instructions == "Be brief."
        and made.created_at == begun.created_at
    )
    assert [item.type for item in made.output] == [item.type for item in live.output]


async def test_its_stream_goes_on_from_any_event_at_any_bridge(clients):
    asked = {"model": "demo", "input": "Hello!", "temperature": 0, "max_output_tokens": 40}
    told = [event async for event in await clients[0].responses.create(**asked, background=True, stream=True)]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert [event.type for event in told[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert told[0].response.status == "queued" and told[-1].type in ("response.completed", "response.incomplete")
    id = told[0].response.id
    for after in (0, 2, 7, len(told) - 2):
        again = [event async for event in await clients[1].responses.retrieve(id, stream=True, starting_after=after)]
        assert again == told[after + 1 :]
    assert (await clients[1].responses.retrieve(id)).output_text == told[-1].response.output_text


async def test_a_reader_that_left_finds_what_came_meanwhile(client):
    stream = await client.responses.create(
        model="demo",
        input="Hello!",
        max_output_tokens=300,
        background=True,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    heard = []
    async for event in stream:
        heard.append(event)
        if len(heard) == 9:
            break
    await stream.close()
    rest = [
        event
        async for event in await client.responses.retrieve(
            heard[0].response.id, stream=True, starting_after=heard[-1].sequence_number
        )
    ]
    assert [event.sequence_number for event in heard + rest] == list(range(len(heard) + len(rest)))
    assert rest[-1].response.usage.output_tokens == 300


async def test_it_is_cancelled_at_once_and_stays_so(client):
    begun = await client.responses.create(**ENDLESS, background=True)
    stream = await client.responses.retrieve(begun.id, stream=True)
    async for event in stream:
        if event.type == "response.output_text.delta":
            break
    ended = await client.responses.cancel(begun.id)
    assert ended.status == "cancelled" and ended.output[0].status == "incomplete" and ended.output_text
    assert [event.type async for event in stream][-1] == "response.cancelled"
    assert (await client.responses.cancel(begun.id)).status == "cancelled"
    assert (await client.responses.retrieve(begun.id)).output_text == ended.output_text


async def test_it_is_thrown_away_running_or_over(client):
    running = await client.responses.create(**ENDLESS, background=True)
    over = await client.responses.create(model="demo", input="Hello!", max_output_tokens=2, background=True)
    kept = await settled_response(client, over.id)
    assert (await client.responses.cancel(over.id)) == kept, "what is over stays what it is"
    for one in (running, over):
        await client.responses.delete(one.id)
        with pytest.raises(openai.NotFoundError, match="no response"):
            await client.responses.retrieve(one.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.delete(one.id)


async def test_the_server_runs_its_tools_as_in_live_ones(client, settled):
    asked = {
        "model": "demo", "input": "What time is it in Tokyo?", "temperature": 0, "max_output_tokens": 80,
        "tools": [CLOCK],
    }  # fmt: skip
    made = await settled_response(client, (await client.responses.create(**asked, background=True)).id)
    live = await client.responses.create(**asked)
    assert [item.type for item in made.output] == [item.type for item in live.output]
    (called,) = [item for item in made.output if item.type == "mcp_call"]
    assert (called.server_label, called.name) == ("time", "time__get_current_time") and called.output


async def test_what_is_wrong_is_refused_before_it_is_taken(client):
    for asked, param in ({"temperature": -1}, "temperature"), ({"store": False}, "store"):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model="demo", input="Hello!", background=True, **asked)
        assert caught.value.param == param
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="nobody", input="Hello!", background=True)


async def test_a_key_does_the_work_of_retries_once(client):
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hello!"}], "temperature": 1, "max_tokens": 24}
    key = {"Idempotency-Key": "chat-1"}
    first, second = await asyncio.gather(*(client.chat.completions.create(**body, extra_headers=key) for _ in "12"))
    assert first.id == second.id and first.choices == second.choices
    streamed = [chunk async for chunk in await client.chat.completions.create(**body, stream=True, extra_headers=key)]
    text = "".join(chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices)
    assert text == first.choices[0].message.content and streamed[0].id == first.id
    with pytest.raises(openai.ConflictError):
        await client.chat.completions.create(**body | {"max_tokens": 3}, extra_headers=key)
    prompts = {"model": "demo", "prompt": ["A", "B"], "temperature": 1, "max_tokens": 9}
    key = {"Idempotency-Key": "prompts-1"}
    made = [await client.completions.create(**prompts, extra_headers=key) for _ in "12"]
    assert made[0].choices == made[1].choices
    asked = {"model": "demo", "input": "Hello!", "temperature": 1, "max_output_tokens": 9}
    key = {"Idempotency-Key": "response-1"}
    live = [await client.responses.create(**asked, extra_headers=key) for _ in "12"]
    assert live[0].output == live[1].output and live[0].id == live[1].id
    parked = await client.responses.create(**asked, background=True, extra_headers=key)
    assert parked.id == live[0].id and parked.output == live[0].output
