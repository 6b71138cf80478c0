"""Tickets over gRPC with the demo model: submitted, parked, followed, cancelled, and fetched later."""

import asyncio
import json

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.v1 import common_pb2, tool_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub
from narthex.v1.tool_pb2_grpc import ToolServiceStub

WAIT = Duration(seconds=30)
PARK = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
OVER = (wire.TICKET_STATE_DONE, wire.TICKET_STATE_FAILED, wire.TICKET_STATE_CANCELLED)


@pytest.fixture(scope="module")
def server(launch, demo, upstreams):
    return launch("--model", demo, "--mcp-config", str(upstreams), "--max-slots", "1")


@pytest.fixture
def lot(channel):
    return LotServiceStub(channel)


@pytest.fixture
def stub(channel):
    return GenerationServiceStub(channel)


def completion(tokens: int = 12, **fields) -> text.GenerationSpec:
    spec = text.GenerationSpec(text="The time in Rome", stopping=text.StoppingOptions(max_tokens=tokens))
    spec.stopping.ignore_eos = not fields.get("constraint")
    spec.MergeFrom(text.GenerationSpec(**fields))
    return spec


def endless() -> text.GenerationSpec:
    spec = completion()
    spec.stopping.ClearField("max_tokens")
    return spec


def generate(spec: text.GenerationSpec | None = None) -> wire.Work:
    return wire.Work(generate=spec or completion())


async def submitted(lot, work: wire.Work | None = None, **fields) -> wire.Ticket:
    return (await lot.Submit(wire.SubmitRequest(work=work or generate(), **fields))).ticket


async def fetched(lot, ticket: str, **fields) -> list[wire.FetchResponse]:
    request = wire.FetchRequest(ticket_id=ticket, wait=WAIT)
    request.MergeFrom(wire.FetchRequest(**fields))
    return [response async for response in lot.Fetch(request)]


async def over(lot, ticket: str) -> wire.Ticket:
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket]), timeout=30):
        last = change.ticket
    assert last.state in OVER
    return last


async def test_submitted_work_runs_and_its_result_waits(lot, stub):
    spec = completion(sampling=text.SamplingOptions(temperature=0))
    ticket = await submitted(lot, generate(spec))
    assert ticket.id and ticket.state in (wire.TICKET_STATE_WAITING, wire.TICKET_STATE_RUNNING)
    (result,) = await fetched(lot, ticket.id)
    live = await stub.Generate(text.GenerateRequest(spec=spec))
    assert result.generate.text == live.text and result.generate.request_id == ticket.id
    assert result.generate.finished.usage.completion_tokens == 12
    assert await fetched(lot, ticket.id) == [result], "it stays there"
    done = (await lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket.id))).ticket
    assert done.state == wire.TICKET_STATE_DONE and done.version > ticket.version
    assert done.submit_time.ToSeconds() <= done.start_time.ToSeconds() <= done.end_time.ToSeconds()
    assert done.expire_time.ToSeconds() > done.end_time.ToSeconds()


async def test_a_parked_stream_goes_on_without_its_client(lot, stub):
    spec = completion(400)
    call = stub.GenerateStream(text.GenerateStreamRequest(spec=spec, options=PARK))
    started = (await call.read()).started
    heard = [await call.read() for _ in range(3)]
    call.cancel()
    events = [response.event for response in await fetched(lot, started.request_id, events=True)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [event.generate for event in events[1:4]] == heard
    assert events[-1].generate.finished.usage.completion_tokens == 400


async def test_events_come_from_any_offset_and_none_twice(lot, stub):
    ticket = await submitted(lot, generate(completion(40)))
    await over(lot, ticket.id)
    every = [response.event for response in await fetched(lot, ticket.id, events=True)]
    for after in (1, len(every) // 2, len(every) - 1):
        assert [one.event for one in await fetched(lot, ticket.id, events=True, after_sequence=after)] == every[after:]
    assert await fetched(lot, ticket.id, events=True, after_sequence=len(every)) == []


async def test_an_offset_that_is_not_there_yet_is_out_of_range(lot, failure):
    ticket = await submitted(lot)
    await over(lot, ticket.id)
    caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket.id, events=True, after_sequence=10_000)))
    assert (caught.code, caught.reason) == (grpc.StatusCode.OUT_OF_RANGE, "NO_SUCH_EVENT")


async def test_work_that_is_not_finished_in_time_says_so_and_events_do_not_mind(lot, failure):
    ticket = await submitted(lot, generate(endless()))
    caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket.id)))
    assert (caught.code, caught.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_FINISHED")
    some = [
        one async for one in lot.Fetch(wire.FetchRequest(ticket_id=ticket.id, events=True, wait=Duration(seconds=1)))
    ]
    assert some and all(one.event.generate.WhichOneof("event") != "finished" for one in some)
    await lot.Cancel(wire.CancelRequest(ticket_id=ticket.id))


async def test_a_cancelled_ticket_frees_its_slot_at_once_and_says_what_it_was(lot, stub, failure):
    ticket = await submitted(lot, generate(endless()))
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket.id])):
        if change.ticket.state == wire.TICKET_STATE_RUNNING:
            was = (await lot.Cancel(wire.CancelRequest(ticket_id=ticket.id))).ticket
            assert was.state == wire.TICKET_STATE_CANCELLED
    assert change.ticket.state == wire.TICKET_STATE_CANCELLED
    await stub.Generate(text.GenerateRequest(spec=completion(2)), timeout=5)  # there is one slot
    caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket.id, wait=WAIT)))
    assert (caught.code, caught.reason) == (grpc.StatusCode.CANCELLED, "TICKET_CANCELLED")


async def test_the_result_of_a_finished_ticket_can_be_thrown_away(lot, failure):
    ticket = await submitted(lot)
    await over(lot, ticket.id)
    assert (await lot.Cancel(wire.CancelRequest(ticket_id=ticket.id))).ticket.state == wire.TICKET_STATE_DONE
    for call in (
        lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket.id)),
        lot.Fetch(wire.FetchRequest(ticket_id=ticket.id)),
        lot.Watch(wire.WatchRequest(ticket_ids=[ticket.id])),
        lot.Watch(wire.WatchRequest(ticket_ids=[ticket.id], events=True)),
    ):
        assert (await failure(call)).code is grpc.StatusCode.NOT_FOUND


BAD = {
    "no work": (wire.Work(), "INVALID_ARGUMENT", "work"),
    "unknown model": (generate(completion(model="nobody")), "NOT_FOUND", ""),
    "sampling": (
        generate(completion(sampling=text.SamplingOptions(temperature=-1))), "INVALID_ARGUMENT", "sampling.temperature",
    ),
    "n": (generate(completion(n=99)), "INVALID_ARGUMENT", "n"),
    "no prompt": (generate(text.GenerationSpec()), "INVALID_ARGUMENT", "prompt"),
    "constraint": (generate(completion(constraint=text.Constraint(regex="("))), "INVALID_ARGUMENT", "constraint.regex"),
    "too long": (generate(completion(100_000)), "INVALID_ARGUMENT", ""),
    "adapter": (generate(completion(adapters=[text.AdapterUse(name="none")])), "NOT_FOUND", ""),
    "no messages": (wire.Work(chat=text.ChatSpec()), "INVALID_ARGUMENT", "messages"),
    "unknown tool": (wire.Work(call_tool=tool_pb2.ToolInvocation(name="nothing")), "NOT_FOUND", ""),
    "arguments": (
        wire.Work(call_tool=tool_pb2.ToolInvocation(name="time__get_current_time", arguments=b"{}")),
        "INVALID_ARGUMENT", "timezone",
    ),
    "pictures": (wire.Work(generate_image={}), "UNIMPLEMENTED", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
async def test_what_can_be_seen_to_be_wrong_is_refused_at_once_as_its_own_rpc_would(name, lot, settled, failure):
    work, code, field = BAD[name]
    caught = await failure(lot.Submit(wire.SubmitRequest(work=work)))
    assert caught.code.name == code and (field in caught.fields or not field)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"timeout": Duration(seconds=-1)}, "timeout"),
        ({"keep": Duration()}, "keep"),
        ({"webhook": wire.Webhook(url="https://example.org/")}, "webhook.url"),
        ({"options": common_pb2.CallOptions(idempotency_key="k" * 129)}, "options.idempotency_key"),
    ],
)
async def test_terms_that_cannot_be_kept_are_refused(fields, field, lot, failure):
    caught = await failure(lot.Submit(wire.SubmitRequest(work=generate(), **fields)))
    assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_work_whose_time_is_over_is_cancelled(lot, failure):
    ticket = await submitted(lot, generate(endless()), timeout=Duration(nanos=300_000_000))
    caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket.id, wait=WAIT)))
    assert caught.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await over(lot, ticket.id)).state == wire.TICKET_STATE_CANCELLED


async def test_a_deadline_cancels_parked_work(lot, stub):
    call = stub.GenerateStream(text.GenerateStreamRequest(spec=endless(), options=PARK), timeout=0.5)
    started = (await call.read()).started
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        while await call.read():
            pass
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await over(lot, started.request_id)).state == wire.TICKET_STATE_CANCELLED


async def test_a_repeated_key_follows_the_first_and_other_content_is_refused(lot, stub, failure):
    keyed = common_pb2.CallOptions(idempotency_key="once")
    request = text.GenerateRequest(spec=completion(20), options=keyed)
    first, second = await asyncio.gather(stub.Generate(request), stub.Generate(request))
    assert first == second and first.request_id == second.request_id
    streamed = text.GenerateStreamRequest(spec=completion(20), options=keyed)
    events = [event async for event in stub.GenerateStream(streamed)]
    assert events[0].started.request_id == first.request_id
    assert "".join(event.text_delta.text for event in events) == first.text
    ticket = await submitted(lot, generate(completion(20)), options=keyed)
    assert ticket.id == first.request_id
    caught = await failure(stub.Generate(text.GenerateRequest(spec=completion(21), options=keyed)))
    assert (caught.code, caught.reason) == (grpc.StatusCode.ALREADY_EXISTS, "KEY_REUSED")


async def test_unary_calls_that_are_parked_answer_as_others(lot, stub):
    response = text.ResponseOptions(token_ids=True, prompt_token_ids=True, logprobs=2)
    spec = completion(8, n=3, response=response, sampling=text.SamplingOptions(seed=7, temperature=2))
    plain = await stub.Generate(text.GenerateRequest(spec=spec))
    parked = await stub.Generate(text.GenerateRequest(spec=spec, options=PARK))
    (kept,) = await fetched(lot, parked.request_id)
    assert kept.generate == parked
    for one, other in ((plain, parked), *zip(plain.further_completions, parked.further_completions, strict=True)):
        assert (one.text, list(one.token_ids)) == (other.text, list(other.token_ids))
        assert len(one.logprobs) == len(other.logprobs) == 8
    assert parked.prompt.token_ids == plain.prompt.token_ids


async def test_a_chat_is_parked_and_fetched(lot, stub):
    said = text.ChatMessage(role=text.ROLE_USER, content=[text.ContentPart(text="Hello!")])
    spec = text.ChatSpec(messages=[said], stopping=text.StoppingOptions(max_tokens=32))
    spec.sampling.temperature = 0
    plain = await stub.Chat(text.ChatRequest(spec=spec))
    call = stub.ChatStream(text.ChatStreamRequest(spec=spec, options=PARK))
    started = (await call.read()).started
    call.cancel()
    (kept,) = await fetched(lot, started.request_id)
    assert kept.chat.messages == plain.messages
    assert kept.chat.finished.finish_reason == plain.finished.finish_reason


async def test_tools_are_called_by_ticket_and_parked_calls_are_resumed(lot, channel, settled):
    tools = ToolServiceStub(channel)
    arguments = json.dumps({"timezone": "UTC"}).encode()
    ticket = await submitted(
        lot, wire.Work(call_tool=tool_pb2.ToolInvocation(name="time__get_current_time", arguments=arguments))
    )
    (result,) = await fetched(lot, ticket.id)
    assert json.loads(json.loads(result.call_tool.content)[0]["text"])["timezone"] == "UTC"
    request = tool_pb2.CallToolRequest(name="rich__steps", arguments=b'{"count": 3}', options=PARK, call_id="mine")
    events = [event async for event in tools.CallTool(request)]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    again = tool_pb2.ResumeCallRequest(call_id="mine", after_sequence=2)
    assert [one.event async for one in tools.ResumeCall(again)] == events[2:]


async def test_resuming_an_unknown_call_or_one_too_far_is_refused(channel, settled, failure):
    tools = ToolServiceStub(channel)
    caught = await failure(tools.ResumeCall(tool_pb2.ResumeCallRequest(call_id="nobody")))
    assert (caught.code, caught.reason) == (grpc.StatusCode.NOT_FOUND, "CALL_NOT_FOUND")
    request = tool_pb2.CallToolRequest(name="rich__steps", arguments=b'{"count": 1}', options=PARK, call_id="short")
    [_ async for _ in tools.CallTool(request)]
    caught = await failure(tools.ResumeCall(tool_pb2.ResumeCallRequest(call_id="short", after_sequence=9)))
    assert caught.code is grpc.StatusCode.OUT_OF_RANGE


async def test_work_that_fails_later_answers_with_its_own_status(lot, channel, settled, failure):
    """The arguments fit the schema, so that only the tool itself can refuse them."""
    work = wire.Work(call_tool=tool_pb2.ToolInvocation(name="rich__die"))
    ticket = await submitted(lot, work)
    caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket.id, wait=WAIT)))
    assert caught.code is grpc.StatusCode.UNAVAILABLE and caught.reason
    assert (await over(lot, ticket.id)).state == wire.TICKET_STATE_FAILED


async def test_many_tickets_are_watched_to_their_ends(lot):
    tickets = [(await submitted(lot, generate(completion(2)))).id for _ in range(12)]
    last = {}
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=tickets), timeout=30):
        assert change.ticket.version > getattr(last.get(change.ticket.id), "version", 0)
        last[change.ticket.id] = change.ticket
    assert {name: one.state for name, one in last.items()} == dict.fromkeys(tickets, wire.TICKET_STATE_DONE)


async def test_events_of_several_tickets_come_on_one_stream(lot):
    tickets = [(await submitted(lot, generate(completion(6)))).id for _ in range(3)]
    told = {name: [] for name in tickets}
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=tickets, events=True), timeout=30):
        told[change.ticket.id].append(change.event.sequence if change.HasField("event") else change.ticket.state)
    for one in told.values():
        assert one[-1] == wire.TICKET_STATE_DONE


async def test_whoever_names_no_tickets_sees_new_ones(lot):
    watch = lot.Watch(wire.WatchRequest())
    first = await submitted(lot)
    async with asyncio.timeout(20):
        async for change in watch:
            if change.ticket.id == first.id and change.ticket.state == wire.TICKET_STATE_DONE:
                break
    watch.cancel()


async def test_tickets_are_listed_page_by_page_the_newest_first(lot, failure):
    made = [(await submitted(lot)).id for _ in range(5)]
    for name in made:
        await over(lot, name)
    listed, token = [], ""
    while True:
        page = await lot.ListTickets(wire.ListTicketsRequest(page_size=2, page_token=token))
        listed += [ticket.id for ticket in page.tickets]
        if not (token := page.next_page_token):
            break
    assert listed[:5] == made[::-1] and len(set(listed)) == len(listed)
    failed = await lot.ListTickets(wire.ListTicketsRequest(states=[wire.TICKET_STATE_FAILED]))
    assert all(ticket.state == wire.TICKET_STATE_FAILED for ticket in failed.tickets)
    for request, field in (({"page_token": "eA=="}, "page_token"), ({"states": [77]}, "states[0]")):
        caught = await failure(lot.ListTickets(wire.ListTicketsRequest(**request)))
        assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_occupancy_counts_the_tenants_tickets_and_the_models_work(lot):
    ticket = await submitted(lot, generate(endless()))
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket.id], events=True)):
        if change.event.sequence > 3:
            break
    found = await lot.GetOccupancy(wire.GetOccupancyRequest())
    (model,) = found.models
    assert (model.model, model.running, model.max_running) == ("demo", 1, 1) and model.kv_usage > 0
    assert found.open_tickets == 1 and found.max_open_tickets == 1000
    assert found.parked_results > 0 and 0 < found.parked_bytes <= found.max_parked_bytes
    await lot.Cancel(wire.CancelRequest(ticket_id=ticket.id))


async def test_metrics_count_what_became_of_tickets(server, lot):
    ticket = await submitted(lot)
    await over(lot, ticket.id)
    assert server.metric("narthex_tickets_submitted_total", kind="generate") >= 1
    assert server.metric("narthex_tickets_finished_total", kind="generate", outcome="done") >= 1
    assert server.metric("narthex_ticket_wait_seconds_count") >= 1


@pytest.mark.parametrize("priority", [common_pb2.PRIORITY_BATCH, common_pb2.PRIORITY_INTERACTIVE])
async def test_a_ticket_has_the_priority_that_was_asked_for(priority, lot):
    ticket = await submitted(lot, options=common_pb2.CallOptions(priority=priority))
    assert ticket.priority == priority
    assert (await over(lot, ticket.id)).priority == priority
