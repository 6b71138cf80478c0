"""POST /v1/responses."""

import json

import openai
import pytest
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": True}
CLOCK = {"type": "mcp", "server_label": "clock", "require_approval": "never"}


async def events(client, **more):
    made = await client.responses.create(model="m", stream=True, **({"input": "Hello"} | more))
    return [event async for event in made]


async def test_a_response_has_items_for_thoughts_text_and_calls(client, models, said):
    models.events = [
        said.started(), said.thought("Hm."), said.text("So: "), said.call("c1", "weather", b'{"a":1}'), said.text(""),
        said.finished(said.TOOL_CALLS),
    ]  # fmt: skip
    made = await client.responses.create(model="m", input="Hello", instructions="Be brief.", tools=[WEATHER], user="u")
    assert (made.object, made.status, made.model, made.store) == ("response", "completed", "m", False)
    thought, message, call = made.output
    assert (thought.type, thought.content[0].text) == ("reasoning", "Hm.")
    assert made.output_text == "So: " and message.role == "assistant"
    assert (call.type, call.call_id, call.name, call.arguments) == ("function_call", "c1", "weather", '{"a":1}')
    assert (made.instructions, made.user, made.usage.total_tokens) == ("Be brief.", "u", 8)
    assert made.usage.input_tokens_details.cached_tokens == 2
    system, user = models.spec.messages
    assert (system.role, user.content[0].text) == (wire.ROLE_SYSTEM, "Hello")
    assert models.spec.tools[0].strict and models.spec.tool_execution == wire.TOOL_EXECUTION_CLIENT


async def test_events_come_in_order_and_are_numbered(client, models, said):
    models.events = [
        said.started(), said.thought("Hm."), said.text("Hel"), said.text("lo"), said.call("c1", "weather", b'{"a":1}'),
        said.finished(said.TOOL_CALLS),
    ]  # fmt: skip
    told = await events(client, tools=[WEATHER])
    assert [event.sequence_number for event in told] == list(range(len(told)))
    names = [event.type.removeprefix("response.") for event in told if event.type != "response.output_text.delta"]
    assert names == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "reasoning_text.delta", "reasoning_text.done", "content_part.done",
        "output_item.done",
        "output_item.added", "content_part.added", "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    deltas = [event for event in told if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == "Hello" and {event.output_index for event in deltas} == {1}
    (done,) = [event for event in told if event.type == "response.output_text.done"]
    assert done.text == "Hello" and done.item_id == deltas[0].item_id
    assert [event.item.type for event in told if event.type == "response.output_item.done"] == [
        item.type for item in told[-1].response.output
    ]


async def test_the_officials_own_accumulator_reads_it(client, models, said):
    models.events = [said.started(), said.text("Hel"), said.text("lo"), said.finished()]
    async with client.responses.stream(model="m", input="Hello") as stream:
        async for _ in stream:
            pass
        assert (await stream.get_final_response()).output_text == "Hello"


async def test_a_cut_answer_is_incomplete(client, models, said):
    models.events = [said.started(), said.text("Hel"), said.finished(said.LENGTH)]
    told = await events(client, max_output_tokens=2)
    made = told[-1].response
    assert (told[-1].type, made.status, made.incomplete_details.reason) == (
        "response.incomplete", "incomplete", "max_output_tokens",
    )  # fmt: skip
    assert made.output[0].status == "incomplete" and models.spec.stopping.max_tokens == 2


async def test_tools_of_a_configured_server_are_run_there(client, models, said):
    models.events = [
        said.started(), said.call("c1", "clock__now"), said.call("c2", "clock__zone"),
        said.result("c2", "clock__zone", b'[{"type":"text","text":"no"}]', is_error=True),
        said.result("c1", "clock__now", b'[{"type":"text","text":"noon"},{"type":"image"}]'),
        said.text("Noon.", round=2), said.finished(round=2),
    ]  # fmt: skip
    told = await events(client, tools=[CLOCK])
    assert models.spec.tool_execution == wire.TOOL_EXECUTION_SERVER
    assert sorted(models.spec.catalog_tools) == ["clock__now", "clock__zone"]
    now, zone, message = told[-1].response.output
    assert (now.type, now.server_label, now.name, now.status) == ("mcp_call", "clock", "clock__now", "completed")
    assert now.output == 'noon\n{"type":"image"}' and now.error is None
    assert (zone.status, zone.error.content) == ("failed", "no") and message.content[0].text == "Noon."
    kinds = [event.type for event in told if event.type.startswith("response.mcp_call.")]
    assert kinds == ["response.mcp_call.in_progress"] * 2 + ["response.mcp_call.failed", "response.mcp_call.completed"]


async def test_calls_after_the_last_round_are_shown_as_not_run(client, models, said):
    models.events = [
        said.started(), said.call("c1", "clock__now"), said.finished(common.FINISH_REASON_TOOL_ROUNDS),
    ]  # fmt: skip
    streamed = (await events(client, tools=[CLOCK]))[-1].response
    whole = await client.responses.create(model="m", input="Hello", tools=[CLOCK])
    for made in (streamed, whole):
        assert (made.status, made.output[0].status) == ("incomplete", "incomplete")


@pytest.mark.parametrize("allowed", [["now"], ["clock__now"], {"tool_names": ["now"]}])
async def test_some_of_a_servers_tools_can_be_allowed(post, models, said, allowed):
    models.events = [said.started(), said.finished()]
    assert (await post("responses", input="x", tools=[{**CLOCK, "allowed_tools": allowed}])).status_code == 200
    assert list(models.spec.catalog_tools) == ["clock__now"]


async def test_items_of_earlier_turns_become_messages(post, models, said):
    models.events = [said.started(), said.finished()]
    given = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So: "}]},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"a":1.0}'},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
        {"type": "mcp_call", "id": "m1", "name": "clock__now", "arguments": "{}", "output": "noon"},
        {"type": "message", "role": "assistant", "content": "Sun at noon."},
        {"role": "developer", "content": "Now stop."},
    ]
    assert (await post("responses", input=given)).status_code == 200
    user, turn, result, second, noon, third, last = models.spec.messages
    assert (turn.reasoning, turn.content[0].text, turn.tool_calls[0].arguments) == ("Hm.", "So: ", b'{"a":1.0}')
    assert (result.tool_call_id, result.name, result.content[0].text) == ("c1", "weather", "sun")
    assert (second.tool_calls[0].name, noon.content[0].text) == ("clock__now", "noon")
    assert third.content[0].text == "Sun at noon." and last.role == wire.ROLE_SYSTEM and user.role == wire.ROLE_USER


async def test_options_reach_the_server(post, models, said):
    models.events = [said.started(), said.text("1", logprobs=[said.position("1", -0.5)]), said.finished()]
    schema = {"type": "object"}
    answer = await post(
        "responses", input="x", temperature=0.5, top_p=0.5, top_logprobs=2, reasoning={"effort": "low"},
        text={"format": {"type": "json_schema", "name": "n", "schema": schema}}, store=False, truncation="disabled",
        include=["reasoning.encrypted_content"], parallel_tool_calls=True,
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    spec = models.spec
    assert (spec.sampling.temperature, spec.sampling.top_p, spec.response.logprobs) == (0.5, 0.5, 2)
    assert spec.reasoning.enabled and json.loads(spec.template_arguments) == {"reasoning_effort": "low"}
    assert json.loads(spec.constraint.json_schema) == schema
    (scored,) = answer.json()["output"][0]["content"][0]["logprobs"]
    assert (scored["token"], scored["logprob"]) == ("1", -0.5)


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"input": None}, "input"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True, "store": False}, "store"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{**CLOCK, "server_url": "https://x"}]}, "tools[0].server_url"),
        ({"tools": [{**CLOCK, "require_approval": "always"}]}, "tools[0].require_approval"),
        ({"tools": [{**CLOCK, "server_label": "nobody"}]}, "tools[0].server_label"),
        ({"tools": [{**CLOCK, "allowed_tools": ["x"]}]}, "tools[0].allowed_tools"),
        ({"tools": [CLOCK], "tool_execution": "client"}, "tool_execution"),
        ({"text": {"verbosity": "low"}}, "text.verbosity"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
    ],
)
async def test_what_cannot_be_is_refused_by_name(post, models, given, param):
    answer = await post("responses", **({"input": "x"} | given))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert not models.asked


async def test_a_failure_on_the_way_is_the_responses_own(client, models, said, fault, codes):
    models.events = [said.started(), said.text("a")]
    models.fault = fault(codes.INTERNAL, "INTERNAL", "It broke.")
    told = await events(client)
    assert (told[-1].type, told[-1].response.status) == ("response.failed", "failed")
    assert (told[-1].response.error.code, told[-1].response.error.message) == ("server_error", "It broke.")
    with pytest.raises(openai.InternalServerError, match="It broke"):
        await client.responses.create(model="m", input="Hello")
