"""Tickets of several tenants, what each may have, and whom the end of work is told."""

import asyncio
import hashlib
import hmac
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from narthex.keys import append_key, new_key
from narthex.scopes import ALL_TOOLS, ToolScope
from narthex.v1 import common_pb2
from narthex.v1 import generation_pb2 as text
from narthex.v1 import lot_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub
from narthex.v1.lot_pb2_grpc import LotServiceStub

PARK = common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK)
SECRET = "between-us"


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    file, secrets = tmp_path_factory.mktemp("keys") / "keys.toml", {}
    for tenant in ("acme", "umbrella"):
        secrets[tenant], key = new_key(f"{tenant}-ci", tenant)
        append_key(file, key)
    for name, scope, admin in (("narrow", ToolScope(()), False), ("chief", ALL_TOOLS, True)):
        secrets[name], key = new_key(name, "acme", tools=scope, admin=admin)
        append_key(file, key)
    return file, secrets


@pytest.fixture(scope="module")
def server(launch, demo, nothing, keys):
    return launch(
        "--model", demo, "--mcp-config", str(nothing), "--api-key-file", str(keys[0]), "--tickets-max-open", "2",
        "--tickets-webhook-hosts", "127.0.0.1", "--tickets-max-bytes", "20000",
    )  # fmt: skip


@pytest.fixture
def lot(channel):
    return LotServiceStub(channel)


@pytest.fixture
def acme(keys):
    return (("authorization", f"Bearer {keys[1]['acme']}"),)


@pytest.fixture(params=["umbrella", "narrow"])
def other(keys, request):
    return (("authorization", f"Bearer {keys[1][request.param]}"),)


@pytest.fixture
def chief(keys):
    return (("authorization", f"Bearer {keys[1]['chief']}"),)


@pytest.fixture
def umbrella(keys):
    return (("authorization", f"Bearer {keys[1]['umbrella']}"),)


def spec(tokens: int | None = 8, **fields) -> text.GenerationSpec:
    stopping = text.StoppingOptions(max_tokens=tokens, ignore_eos=True)
    return text.GenerationSpec(text="The time", stopping=stopping, **fields)


def submit(tokens: int | None = 8, **fields) -> wire.SubmitRequest:
    return wire.SubmitRequest(work=wire.Work(generate=spec(tokens)), **fields)


async def over(lot, ticket: str, whose) -> wire.Ticket:
    async for change in lot.Watch(wire.WatchRequest(ticket_ids=[ticket]), metadata=whose, timeout=30):
        last = change.ticket
    return last


async def test_another_tenants_or_keys_ticket_does_not_exist(lot, acme, other, chief, failure):
    ticket = (await lot.Submit(submit(), metadata=acme)).ticket.id
    await over(lot, ticket, acme)

    def asked(name: str):
        return (
            lot.GetTicket(wire.GetTicketRequest(ticket_id=name), metadata=other),
            lot.Cancel(wire.CancelRequest(ticket_id=name), metadata=other),
            lot.Fetch(wire.FetchRequest(ticket_id=name), metadata=other),
            lot.Fetch(wire.FetchRequest(ticket_id=name, events=True), metadata=other),
            lot.Watch(wire.WatchRequest(ticket_ids=[name]), metadata=other),
            lot.Watch(wire.WatchRequest(ticket_ids=[name], events=True), metadata=other),
        )

    for theirs, nobodys in zip(asked(ticket), asked("x" * len(ticket)), strict=True):
        one, none = await failure(theirs), await failure(nobodys)
        assert one.code is grpc.StatusCode.NOT_FOUND
        assert (one.code, one.reason, one.text.replace(ticket, "")) == (
            none.code, none.reason, none.text.replace("x" * len(ticket), ""),
        )  # fmt: skip
    listed = await lot.ListTickets(wire.ListTicketsRequest(), metadata=other)
    assert ticket not in [one.id for one in listed.tickets]
    for whose in (acme, chief):
        assert (await lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket), metadata=whose)).ticket.id == ticket
        assert ticket in [one.id for one in (await lot.ListTickets(wire.ListTicketsRequest(), metadata=whose)).tickets]


async def test_a_request_id_that_another_tenant_has_used_tells_nothing(lot, channel, acme, umbrella, failure):
    stub, named = GenerationServiceStub(channel), ("x-request-id", "chosen-1")
    request = text.GenerateRequest(spec=spec(), options=PARK)
    for whose in (acme, umbrella):
        assert (await stub.Generate(request, metadata=(*whose, named))).request_id == "chosen-1"
        assert (await over(lot, "chosen-1", whose)).state == wire.TICKET_STATE_DONE
    caught = await failure(stub.Generate(request, metadata=(*acme, named)))
    assert (caught.code, caught.reason) == (grpc.StatusCode.ALREADY_EXISTS, "TICKET_EXISTS")
    await lot.Cancel(wire.CancelRequest(ticket_id="chosen-1"), metadata=acme)
    assert (await over(lot, "chosen-1", umbrella)).state == wire.TICKET_STATE_DONE


async def test_a_key_is_of_its_tenant(lot, channel, acme, umbrella):
    stub = GenerationServiceStub(channel)
    request = text.GenerateRequest(spec=spec(), options=common_pb2.CallOptions(idempotency_key="same"))
    ids = {(await stub.Generate(request, metadata=whose)).request_id for whose in (acme, umbrella, acme)}
    assert len(ids) == 2


async def test_a_tenant_that_has_too_much_is_refused_and_others_are_not(lot, acme, umbrella, failure):
    tickets = [(await lot.Submit(submit(None), metadata=acme)).ticket.id for _ in range(2)]
    caught = await failure(lot.Submit(submit(), metadata=acme))
    assert (caught.code, caught.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LOT_FULL")
    await over(lot, (await lot.Submit(submit(), metadata=umbrella)).ticket.id, umbrella)
    for ticket in tickets:
        await lot.Cancel(wire.CancelRequest(ticket_id=ticket), metadata=acme)
    await over(lot, (await lot.Submit(submit(), metadata=acme)).ticket.id, acme)


async def test_work_that_outgrows_its_tenants_bytes_fails_with_that(lot, umbrella, failure):
    response = text.ResponseOptions(logprobs=20)
    work = wire.Work(generate=spec(400, response=response))
    ticket = (await lot.Submit(wire.SubmitRequest(work=work), metadata=umbrella)).ticket.id
    assert (await over(lot, ticket, umbrella)).state == wire.TICKET_STATE_FAILED
    caught = await failure(lot.Fetch(wire.FetchRequest(ticket_id=ticket), metadata=umbrella))
    assert (caught.code, caught.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "LOT_FULL")
    await lot.Cancel(wire.CancelRequest(ticket_id=ticket), metadata=umbrella)


class Hooks(ThreadingHTTPServer):
    """Answers with the next of its statuses, and keeps what it was told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Hook)
        self.statuses = [503, 302, 204]
        self.told: list[tuple[dict[str, str], bytes]] = []
        self.done = threading.Event()


class _Hook(BaseHTTPRequestHandler):
    server: Hooks

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.told.append((dict(self.headers), body))
        status = self.server.statuses.pop(0)
        self.send_response(status)
        self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", "0")
        self.end_headers()
        if status == 204:
            self.server.done.set()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hooks() -> Iterator[Hooks]:
    server = Hooks()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_webhook_is_told_until_it_answers_and_can_see_who_tells(lot, acme, hooks, server):
    url = f"http://127.0.0.1:{hooks.server_address[1]}/hook?one=1"
    asked = submit(webhook=wire.Webhook(url=url, secret=SECRET))
    ticket = (await lot.Submit(asked, metadata=acme)).ticket.id
    assert await asyncio.to_thread(hooks.done.wait, 30)
    assert len(hooks.told) == 3, "neither an error nor a redirection is an answer"
    done = (await lot.GetTicket(wire.GetTicketRequest(ticket_id=ticket), metadata=acme)).ticket
    for headers, body in hooks.told:
        said = json.loads(body)
        assert (said["ticket_id"], said["state"]) == (ticket, "done")
        assert said["end_time"][:19] == done.end_time.ToJsonString()[:19]
        signed = headers["x-narthex-timestamp"].encode() + b"." + body
        digest = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
        assert headers["x-narthex-signature"] == f"sha256={digest}"
    assert server.metric("narthex_webhooks_total", outcome="error") == 2


async def test_results_are_kept_as_long_as_was_asked(lot, acme, failure):
    ticket = (await lot.Submit(submit(keep=Duration(seconds=1)), metadata=acme)).ticket.id
    done = await over(lot, ticket, acme)
    assert done.expire_time.ToMilliseconds() - done.end_time.ToMilliseconds() == 1000
