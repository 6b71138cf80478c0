"""Remote models against an engine on a real socket that answers as it is told, and notices who hangs up."""

import asyncio
import datetime
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from narthex_server.engine.observer import RequestReport
from narthex_server.errors import (
    ContextOverflow,
    FailedPrecondition,
    InvalidRequest,
    NarthexError,
    ResourceExhausted,
    Unavailable,
)
from narthex_server.pipelines import serving
from narthex_server.pipelines.embed import EmbedRequest
from narthex_server.pipelines.events import Finished, FinishReason, Started, TextDelta, ToolCallStarted, Usage
from narthex_server.pipelines.models import Kind, RemoteModel
from narthex_server.pipelines.remote.handle import RemoteHandle, RemoteLimits
from narthex_server.pipelines.remote.http import HttpConnection, tls_context
from narthex_server.pipelines.remote.refusals import Refusals
from narthex_server.pipelines.request import ChatRequest, GenerateRequest, StoppingOptions
from narthex_server.text.messages import Message, ToolCall, ToolSpec

SECRET = "sk-very-secret"
Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Asked:
    """A request that the engine got."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


def answer(body: bytes | str, status: int = 200, kind: str = "application/json", **headers: str) -> Behaviour:
    """A whole answer."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        data = body.encode() if isinstance(body, str) else body
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + data)
        await writer.drain()

    return behave


def streamed(*pieces: bytes, end: bool = True, hold: asyncio.Event | None = None) -> Behaviour:
    """A stream of events in exactly these pieces; before the last one it waits for `hold`, and may never end."""

    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index, piece in enumerate(pieces):
            if hold is not None and index == len(pieces) - 1:
                await hold.wait()
            writer.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
            await writer.drain()
        if end:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        else:
            await asyncio.Event().wait()

    return behave


def sse(*chunks: Any, done: bool = True) -> bytes:
    """Chunks as events."""
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return "".join([*lines, "data: [DONE]\n\n" if done else ""]).encode()


def delta(finish: str | None = None, **fields: Any) -> dict[str, Any]:
    """A chunk of a chat."""
    return {"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": fields, "finish_reason": finish}]}


def usage(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion, **more}}


LISTING = json.dumps({"data": [{"id": "there", "owned_by": "vllm", "max_model_len": 4096}]})


@dataclass
class Engine:
    """Answers each request with the next behaviour, `/models` with LISTING unless told otherwise."""

    behaviours: list[Behaviour] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    listing: Behaviour = field(default_factory=lambda: answer(LISTING))
    looks: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    connections: int = 0
    url: str = ""

    def will(self, *behaviours: Behaviour) -> None:
        self.behaviours += behaviours

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                await self._answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        self.asked.append(Asked(method, path, headers, json.loads(body or b"null")))
        behave = self.listing if path.endswith("/models") else self.behaviours.pop(0)
        if path.endswith("/models"):
            self.looks.release()
        else:
            self.arrived.set()
        # Whoever hangs up while the answer is under way is noticed by the end of what he sends.
        answering, hearing = asyncio.create_task(behave(writer)), asyncio.create_task(reader.read(1))
        try:
            await asyncio.wait((answering, hearing), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self.hung_up.set()
                raise ConnectionError
            await answering
            if hearing.done():
                raise ConnectionError
        finally:
            for task in (answering, hearing):
                task.cancel()
            await asyncio.gather(answering, hearing, return_exceptions=True)


class Watched:
    """A RemoteObserver that remembers."""

    def __init__(self) -> None:
        self.exchanges: list[str] = []
        self.reports: list[RequestReport] = []
        self.embedded: list[tuple[int, int, str]] = []

    def on_exchange(self, outcome: str) -> None:
        self.exchanges.append(outcome)

    def on_generated(self, report: RequestReport) -> None:
        self.reports.append(report)

    def on_embedded(self, texts: int, tokens: int, outcome: str, seconds: float) -> None:
        self.embedded.append((texts, tokens, outcome))


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    made = Engine()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield made
    server.close()


@dataclass(frozen=True)
class Authority:
    """A server's TLS, and the file with the authority that signed it."""

    server: ssl.SSLContext
    file: Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory) -> Authority:
    """A certificate for 127.0.0.1 that signed itself."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(
            issuer_name=name, subject_name=name, public_key=key.public_key(), serial_number=1,
            not_valid_before=now - datetime.timedelta(hours=1), not_valid_after=now + datetime.timedelta(days=1),
        )
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    folder = tmp_path_factory.mktemp("tls")
    (folder / "cert.pem").write_bytes(certificate.public_bytes(encoding))
    (folder / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return Authority(server, folder / "cert.pem")


@pytest.fixture
def connect():
    """Opens a remote model at a URL, with what its observer saw as `handle.observer`."""

    @asynccontextmanager
    async def connect(
        url: str,
        model: str = "",
        kind: Kind = Kind.TEXT,
        key: str = SECRET,
        limits: RemoteLimits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> AsyncIterator[RemoteModel]:
        refusals, trusted = Refusals("big", key), tls or tls_context(True, None)
        connection = HttpConnection(url, key, trusted, refusals, connect_timeout=5, most=8)
        handle = RemoteHandle(connection, refusals, model, limits or RemoteLimits(), Watched())
        try:
            yield RemoteModel("big", kind, handle)
        finally:
            await handle.stop(1)

    return connect


@pytest.fixture
async def remote(engine, connect) -> AsyncIterator[RemoteModel]:
    """A model of the engine, which has said what it is."""
    async with connect(engine.url) as model:
        await model.handle.look()
        yield model


ASK = ChatRequest("r", (Message("user", "Hi"),))
HELLO = (delta(role="assistant"), delta(content="Grüße \u2028"), delta(content="!"), delta("stop"), usage(5, 2))


async def events(model: RemoteModel, request: ChatRequest = ASK) -> list[Any]:
    async with aclosing(serving.chat(model).stream(request)) as stream:
        return [event async for event in stream]


async def waits(model: RemoteModel) -> None:
    """Until a request waits for its place."""
    for _ in range(1000):
        if model.handle.snapshot().waiting:
            return
        await asyncio.sleep(0)


async def test_a_chat_is_streamed_however_its_bytes_are_cut(engine, remote):
    data = sse(*HELLO)
    engine.will(streamed(data), streamed(*(data[at : at + 1] for at in range(len(data)))))
    for _ in range(2):
        assert await events(remote) == [
            Started(()), TextDelta("Grüße \u2028"), TextDelta("!"), Finished(FinishReason.STOP, Usage(5, 2)),
        ]  # fmt: skip
    asked = engine.asked[-1]
    assert (asked.method, asked.path, asked.body["model"]) == ("POST", "/v1/chat/completions", "there")
    assert asked.headers["authorization"] == f"Bearer {SECRET}"
    assert remote.handle.observer.exchanges == ["ok", "ok"] and engine.connections == 1, "the connection is kept"
    report = remote.handle.observer.reports[-1]
    assert (report.reason, report.prompt_tokens, report.completion_tokens) == ("stop", 5, 2)
    assert report.first_token is not None and remote.handle.snapshot().generated_tokens == 4


async def test_the_first_word_comes_before_the_last(engine, remote):
    hold = asyncio.Event()
    engine.will(streamed(sse(delta(content="one"), done=False), sse(delta("stop")), hold=hold))
    async with aclosing(serving.chat(remote).stream(ASK)) as stream:
        assert [await anext(stream), await anext(stream)] == [Started(()), TextDelta("one")]
        hold.set()
        assert [event async for event in stream] == [Finished(FinishReason.STOP, Usage())]


async def test_calls_arrive_with_their_tools(engine, remote):
    call = {"index": 0, "id": "a", "function": {"name": "add", "arguments": "{}"}}
    engine.will(streamed(sse(delta(tool_calls=[call]), delta("stop"))))
    found = await events(remote, replace(ASK, tools=(ToolSpec("add", "", "{}"),)))
    assert found[1:3] == [ToolCallStarted("a", "add"), ToolCall("a", "add", "{}")]
    assert found[-1].reason is FinishReason.TOOL_CALLS


async def test_an_answer_that_is_not_streamed_is_taken_too(engine, remote):
    whole = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 1}}
    engine.will(answer(json.dumps(whole)))
    assert await events(remote) == [Started(()), TextDelta("Hi"), Finished(FinishReason.STOP, Usage(1))]


async def test_leaving_hangs_up_at_once(engine, remote):
    engine.will(streamed(sse(delta(content="one"), done=False), end=False))
    async with aclosing(serving.chat(remote).stream(ASK)) as stream:
        await anext(stream)
        await anext(stream)
    async with asyncio.timeout(5):
        await engine.hung_up.wait()
    assert remote.handle.observer.exchanges == ["cancelled"]
    assert remote.handle.observer.reports[0].reason == "cancelled" and remote.handle.requests() == 0


@pytest.mark.parametrize("pieces", [(), (sse(delta(content="one"), done=False),)])
async def test_cancelling_hangs_up_at_once(engine, remote, pieces):
    engine.will(streamed(*pieces, end=False))
    task = asyncio.create_task(events(remote))
    await engine.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await engine.hung_up.wait()
    assert remote.handle.observer.exchanges == ["cancelled"] and remote.handle.requests() == 0


async def test_abort_ends_an_answer_with_what_it_has(engine, remote):
    assert not remote.handle.abort("r")
    engine.will(streamed(sse(delta(content="one"), done=False), end=False))
    found = []
    async with aclosing(serving.chat(remote).stream(ASK)) as stream:
        async for event in stream:
            found.append(event)
            if isinstance(event, TextDelta):
                assert remote.handle.abort("r")
    assert found == [Started(()), TextDelta("one"), Finished(FinishReason.CANCELLED, Usage())]
    async with asyncio.timeout(5):
        await engine.hung_up.wait()


@pytest.mark.parametrize("error", [Unavailable, ContextOverflow])
async def test_an_answer_that_breaks_off_is_an_error_and_is_not_tried_again(engine, remote, error):
    last = {"error": {"message": "context length", "code": 400}} if error is ContextOverflow else delta(content="two")
    engine.will(streamed(sse(delta(content="one"), last, done=False)))
    found = []
    limits = replace(ASK, stopping=StoppingOptions(9, fit_context=True))
    with pytest.raises(error):
        async for event in serving.chat(remote).stream(limits):
            found.append(event)
    assert TextDelta("one") in found and len([one for one in engine.asked if one.method == "POST"]) == 1
    assert remote.handle.observer.reports[0].reason == "error"


async def test_a_socket_that_breaks_off_is_no_end(engine, remote):
    async def half(writer: asyncio.StreamWriter) -> None:
        await streamed(sse(delta(content="one"), delta("stop"), done=False), end=True)(BrokenEnd(writer))
        raise ConnectionError

    class BrokenEnd:
        def __init__(self, writer: asyncio.StreamWriter) -> None:
            self.writer = writer

        def write(self, data: bytes) -> None:
            if data != b"0\r\n\r\n":
                self.writer.write(data)

        async def drain(self) -> None:
            await self.writer.drain()

    engine.will(half)
    with pytest.raises(Unavailable, match="broke off"):
        await events(remote)
    assert remote.failure, "and the listing says so"


@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (answer('{"error": {"message": "top_k is unknown"}}', 400), InvalidRequest),
        (answer(f'{{"error": "wrong key {SECRET}"}}', 401), FailedPrecondition),
        (answer("{}", 404), FailedPrecondition), (answer("{}", 429), ResourceExhausted),
        (answer("<html>", 502, "text/html"), Unavailable), 
        (answer("", 302, Location="http://127.0.0.1:1/"), FailedPrecondition),
        (answer("not json"), Unavailable), (answer("[]"), Unavailable),
        (streamed(b"data: {not json\n\n"), Unavailable), (streamed(b"x" * 9_000_000), Unavailable),
        (answer("x" * 1_000_000, 400), InvalidRequest),
    ],
)  # fmt: skip
async def test_refusals_are_errors_and_no_secret_is_told(engine, remote, behaviour, kind):
    engine.will(behaviour)
    with pytest.raises(NarthexError) as caught:
        await events(remote)
    assert type(caught.value) is kind and SECRET not in str(caught.value) and engine.url not in str(caught.value)
    assert remote.handle.requests() == 0


async def test_max_tokens_that_no_longer_fit_are_left_to_the_engine_where_that_is_allowed(engine, remote):
    refusal = answer('{"error": "maximum context length"}', 400)
    asked = replace(ASK, stopping=StoppingOptions(9))
    engine.will(refusal, refusal, streamed(sse(*HELLO)))
    with pytest.raises(ContextOverflow):
        await events(remote, asked)
    assert len(await events(remote, replace(asked, stopping=StoppingOptions(9, fit_context=True)))) == 4
    assert [one.body.get("max_tokens") for one in engine.asked if one.method == "POST"] == [9, 9, None]


async def test_a_silent_engine_is_given_up(engine, connect):
    engine.will(streamed(sse(delta(content="x"), done=False), end=False))
    async with connect(engine.url, limits=RemoteLimits(silence=0.05)) as model:
        with pytest.raises(Unavailable, match=r"silent for 0\.05 seconds"):
            await events(model)


async def test_more_than_the_places_wait_and_more_than_may_wait_are_refused(engine, connect):
    hold = asyncio.Event()
    engine.will(*(streamed(sse(*HELLO, done=False), sse(), hold=hold) for _ in range(2)))
    async with connect(engine.url, limits=RemoteLimits(requests=1, waiting=1)) as model:
        first = asyncio.create_task(events(model))
        await engine.arrived.wait()
        second = asyncio.create_task(events(model))
        await waits(model)
        with pytest.raises(ResourceExhausted) as caught:
            await events(model)
        assert caught.value.reason == "QUEUE_FULL" and model.handle.snapshot().running == 1
        hold.set()
        assert len(await first) == len(await second) == 4
        assert model.handle.requests() == 0


async def test_one_who_waits_can_be_aborted(engine, connect):
    engine.will(streamed(sse(delta(content="x"), done=False), end=False))
    async with connect(engine.url, limits=RemoteLimits(requests=1)) as model:
        first = asyncio.create_task(events(model))
        await engine.arrived.wait()
        second = asyncio.create_task(events(model, replace(ASK, request_id="other")))
        await waits(model)
        assert model.handle.abort("other")
        assert await second == [Started(()), Finished(FinishReason.CANCELLED, Usage())]
        assert not first.done() and model.handle.abort("r")
        assert (await first)[-1].reason is FinishReason.CANCELLED


async def test_an_engine_says_what_it_is(engine, remote):
    assert (remote.max_context, remote.handle.facts.model, remote.failure) == (4096, "there", "")
    for listing, failure in (
        (answer("{}", 500), "failed"), (answer("[]"), "lists no model"), (answer("{}", 403), "credentials"),
        (answer("{}", 404), "does not have"), (answer("no json"), "not JSON"),
    ):  # fmt: skip
        engine.listing = listing
        await remote.handle.look()
        assert failure in remote.failure
    engine.listing = answer(LISTING)
    await remote.handle.look()
    assert remote.failure == ""


async def test_an_engine_without_a_listing_works_with_a_name(engine, connect):
    engine.listing = answer("{}", 404)
    engine.will(streamed(sse(*HELLO)))
    async with connect(engine.url, model="named", key="") as model:
        await model.handle.look()
        assert model.failure == "" and len(await events(model)) == 4
        assert engine.asked[-1].body["model"] == "named" and "authorization" not in engine.asked[-1].headers


async def test_an_engine_that_is_down_is_told_and_comes_back(engine, connect, unused_tcp_port):
    url = f"http://127.0.0.1:{unused_tcp_port}/v1"
    async with connect(url) as model:
        await model.handle.look()
        assert "cannot be reached" in model.failure
        with pytest.raises(Unavailable) as caught:
            await events(model)
        assert caught.value.reason == "REMOTE_UNAVAILABLE" and str(unused_tcp_port) not in str(caught.value)
        engine.will(streamed(sse(*HELLO)))
        server = await asyncio.start_server(engine.serve, "127.0.0.1", unused_tcp_port)
        async with server:
            assert len(await events(model)) == 4 and model.failure == ""


async def test_looks_are_repeated(engine, connect):
    async with connect(engine.url, limits=RemoteLimits(interval=0.01)) as model:
        model.handle.start()
        async with asyncio.timeout(5):
            for _ in range(3):
                await engine.looks.acquire()
        assert model.max_context == 4096


async def test_numbers_of_any_size_are_passed_on_and_those_that_json_lacks_are_refused(engine, remote):
    engine.will(streamed(sse(*HELLO)))
    large = {"n": 2**80, "text": "\ud83d"}
    await events(remote, replace(ASK, template_options=large))
    assert engine.asked[-1].body["chat_template_kwargs"] == large
    with pytest.raises(InvalidRequest, match="JSON does not have"):
        await events(remote, replace(ASK, template_options={"n": float("nan")}))


async def test_an_engine_that_drips_is_not_waited_for(engine, connect):
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        while True:
            writer.write(b" ")
            await writer.drain()
            await asyncio.sleep(0.01)

    engine.listing = drip
    async with connect(engine.url, limits=RemoteLimits(look_silence=0.1)) as model:
        await model.handle.look()
        assert "within 0.1 seconds" in model.failure


async def test_the_engine_says_when_to_come_back(engine, remote):
    engine.will(answer("{}", 429, **{"Retry-After": "7"}), answer("{}", 429, **{"Retry-After": "tomorrow"}))
    for told in ("7", None):
        with pytest.raises(ResourceExhausted) as caught:
            await events(remote)
        assert caught.value.metadata.get("retry_after_seconds") == told


@pytest.mark.parametrize("trusting", [True, False])
async def test_certificates_are_checked_unless_told_otherwise(engine, connect, authority, trusting):
    async with await asyncio.start_server(engine.serve, "127.0.0.1", 0, ssl=authority.server) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        engine.will(streamed(sse(*HELLO)), streamed(sse(*HELLO)))
        async with connect(url) as model:
            with pytest.raises(Unavailable, match="certificate that is not trusted"):
                await events(model)
            assert "certificate" in model.failure and not engine.asked
        tls = tls_context(True, authority.file) if trusting else tls_context(False, None)
        async with connect(url, tls=tls) as model:
            assert len(await events(model)) == 4


async def test_prompts_are_continued(engine, remote):
    text = {"choices": [{"index": 0, "text": " there", "finish_reason": "length"}]}
    engine.will(streamed(sse(text, usage(1, 1))))
    stream = serving.generate(remote).stream(GenerateRequest("r", "Hi", echo=True))
    assert [event async for event in stream] == [
        Started(()), TextDelta("Hi"), TextDelta(" there"), Finished(FinishReason.LENGTH, Usage(1, 1)),
    ]  # fmt: skip
    assert engine.asked[-1].path == "/v1/completions" and engine.asked[-1].body["prompt"] == "Hi"


async def test_vectors_are_made(engine, connect):
    data = [{"index": 1, "embedding": [0, 2, 0]}, {"index": 0, "embedding": [3, 4, 12]}]
    engine.will(*[answer(json.dumps({"data": data, "usage": {"prompt_tokens": 7}}))] * 3)
    async with connect(engine.url, kind=Kind.VECTORS) as model:
        made = await serving.embed(model).run(EmbedRequest(("a", "b")))
        assert np.allclose(made.vectors, [[3 / 13, 4 / 13, 12 / 13], [0, 1, 0]]) and made.vectors.dtype == np.float32
        assert (made.total, made.tokens, model.dimensions) == (7, (0, 0), 3)
        cut = await serving.embed(model).run(EmbedRequest(("a", "b"), dimensions=2))
        assert np.allclose(cut.vectors, [[0.6, 0.8], [0, 1]])
        with pytest.raises(InvalidRequest, match="between 1 and 3"):
            await serving.embed(model).run(EmbedRequest(("a", "b"), dimensions=4))
        assert model.handle.observer.embedded == [(2, 7, "ok")] * 3


@pytest.mark.parametrize(
    "data",
    [
        [], None, [{"embedding": [1]}], [{"embedding": [1]}, {"embedding": [1, 2]}], [{"embedding": []}] * 2, [3, 4],
        [{"embedding": ["x"]}, {"embedding": ["y"]}], [{"embedding": [1e39]}, {"embedding": [1]}],
        [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}], [{"embedding": [[1]]}, {"embedding": [[1]]}],
        [{"embedding": [None]}, {"embedding": [1]}],
    ],
)  # fmt: skip
async def test_vectors_that_are_none_are_refused(engine, connect, data):
    engine.will(answer(json.dumps({"data": data})))
    async with connect(engine.url, kind=Kind.VECTORS) as model:
        with pytest.raises(Unavailable) as caught:
            await serving.embed(model).run(EmbedRequest(("a", "b")))
        assert caught.value.reason == "REMOTE_BROKEN" and model.handle.observer.embedded == [(2, 0, "error")]


async def test_tokens_are_told_where_the_engine_tells_them(engine, remote):
    engine.will(
        answer('{"tokens": [1, 2]}'), answer('{"tokens": [3]}'), answer('{"prompt": "x"}'), answer('{"content": "y"}')
    )
    known = serving.tokenize(remote)
    assert (await known.encode("Hi", False), await known.encode_chat(ASK)) == ((1, 2), (3,))
    assert (await known.decode((1,)), await known.decode((1,))) == ("x", "y")
    text, chat, ids, _ = (one for one in engine.asked if one.method == "POST")
    assert (text.path, text.body["prompt"], text.body["content"]) == ("/tokenize", "Hi", "Hi")
    assert text.body["add_special_tokens"] is text.body["add_special"] is False
    assert (chat.body["messages"], ids.path, ids.body["tokens"]) == (
        [{"role": "user", "content": "Hi"}], "/detokenize", [1],
    )  # fmt: skip
    for told in (answer("{}", 404), answer("{}"), answer('{"tokens": []}'), answer('{"tokens": [true]}')):
        engine.will(told)
        with pytest.raises(FailedPrecondition, match="does not tell token ids"):
            await known.encode("Hi")


async def test_a_handle_that_was_stopped_takes_nothing(engine, remote):
    await remote.handle.look()
    await remote.handle.stop(1)
    with pytest.raises(Unavailable, match="not used any more"):
        await events(remote)
