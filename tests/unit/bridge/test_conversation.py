"""Whatever a client says, in whatever order: each request gets exactly one response, and nothing else does."""

import asyncio
import json
from collections import Counter

from grpc import aio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from narthex.settings import Address
from narthex.v1 import tool_pb2_grpc
from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.endpoints.stdio import StdioEndpoint
from narthex_bridge.mcp.core import Core
from narthex_bridge.metrics import Metrics
from narthex_bridge.outbox import Outbox
from narthex_bridge.sessions.session import Session

from tests.unit.bridge.running_bridge import stateless
from tests.unit.bridge.tool_server import ToolServer

ids = st.integers(1, 6) | st.sampled_from(["a", "b"])
quick = st.sampled_from(["echo", "count", "deltas", "logs", "strict", "broken", "needs", "nothing", "asks"])
slow = st.sampled_from(["hang", "waits"])
plain = st.sampled_from(["ping", "tools/list", "resources/list", "prompts/list", "server/discover", "nothing/here"])
capabilities = {"capabilities": {"elicitation": {}}, "clientInfo": {"name": "t", "version": "1"}}


def conversations(runner: asyncio.Runner, tools: ToolServer) -> type[RuleBasedStateMachine]:
    class Conversation(RuleBasedStateMachine):
        """One client on a pair of pipes, in front of a real server."""

        def __init__(self) -> None:
            super().__init__()
            self.sent: Counter[object] = Counter()
            self.answered: Counter[object] = Counter()
            self.questions: list[object] = []
            runner.run(self._open())

        async def _open(self) -> None:
            self.outbox = Outbox(limit=10_000)
            self.core = Core(BridgeConfig(server=Address.parse(tools.address)), "", Metrics(), Session.notify)
            self.endpoint = StdioEndpoint(self.core.dispatcher, self.outbox)

        def send(self, message: dict[str, object]) -> None:
            if "method" in message and "id" in message:
                self.sent[message["id"]] += 1
            runner.run(self._send(message))

        async def _send(self, message: dict[str, object]) -> None:
            self.endpoint.receive(json.dumps(message).encode())
            await asyncio.sleep(0)

        @rule(id=ids, version=st.sampled_from(["2024-11-05", "2025-03-26", "2025-11-25", "2026-07-28", "1"]))
        def initialize(self, id, version):
            params = {"protocolVersion": version, **capabilities}
            self.send({"jsonrpc": "2.0", "id": id, "method": "initialize", "params": params})

        @rule(id=ids, method=plain)
        def ask(self, id, method):
            self.send({"jsonrpc": "2.0", "id": id, "method": method, "params": {}})

        @rule(id=ids, name=quick | slow)
        def call(self, id, name):
            self.send({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": name}})

        @rule(id=ids, name=quick | slow, token=st.none() | ids)
        def call_without_session(self, id, name, token):
            self.send(stateless("tools/call", {"name": name}, id, {"progressToken": token}))

        @rule(id=ids)
        def listen(self, id):
            self.send(stateless("subscriptions/listen", {"notifications": {"toolsListChanged": True}}, id))

        @rule(id=ids)
        def cancel(self, id):
            self.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": id}})

        @rule(refuse=st.booleans())
        def answer(self, refuse):
            if self.questions:
                outcome = {"error": {"code": 1, "message": "no"}} if refuse else {"result": {"action": "accept"}}
                self.send({"jsonrpc": "2.0", "id": self.questions.pop(), **outcome})

        @rule(line=st.sampled_from([b"", b"{", b"[]", b"3", b'{"jsonrpc":"2.0","id":"x"}', b"\xff"]))
        def say_nonsense(self, line):
            runner.run(self._say(line))

        async def _say(self, line: bytes) -> None:
            self.endpoint.receive(line)

        @rule()
        def wait(self):
            runner.run(asyncio.sleep(0.01))

        @invariant()
        def nothing_is_answered_twice(self):
            runner.run(self._read())
            assert not self.answered - self.sent - Counter({"x": 1000})

        async def _read(self) -> None:
            for raw in await self.outbox.take(0.0) or []:
                message = json.loads(raw)
                if "method" not in message:
                    if message["id"] is not None:
                        self.answered[message["id"]] += 1
                elif "id" in message:
                    self.questions.append(message["id"])

        def teardown(self) -> None:
            runner.run(self._close())
            # "x" is no request: it has neither a method nor a result, and is told so under its id
            del self.answered["x"]
            assert self.answered == self.sent

        async def _close(self) -> None:
            await self.core.dispatcher.drain(0.0)
            self.endpoint.close()
            await self._read()
            await self.core.close()

    return Conversation


def test_every_request_is_answered_exactly_once():
    with asyncio.Runner() as runner:
        tools = ToolServer()

        async def begin() -> aio.Server:
            server = aio.server()
            tool_pb2_grpc.add_ToolServiceServicer_to_server(tools, server)
            tools.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            return server

        server = runner.run(begin())
        try:
            budget = settings(max_examples=40, stateful_step_count=25, deadline=None)
            run_state_machine_as_test(conversations(runner, tools), settings=budget)
        finally:
            runner.run(server.stop(0))
