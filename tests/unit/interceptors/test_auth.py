"""Keys decide who calls; only a delegate may speak for another."""

import json
from datetime import UTC, datetime

import grpc
import pytest
from grpc.aio import AioRpcError
from narthex.keys import KeyRing, new_key
from narthex.scopes import ToolScope
from narthex_server.interceptors.auth import AuthInterceptor
from narthex_server.interceptors.errors import ErrorInterceptor
from narthex_server.principal import CALLER, LOCAL, Principal

ECHO = "/narthex.test.Echo/Who"
HEALTH = "/grpc.health.v1.Health/Check"
SECRET, KEY = new_key("ci", "acme")
SCOPED, SCOPED_KEY = new_key("clock", tools=ToolScope(("time__*",)))
LAPSED, LAPSED_KEY = new_key("old", expires=datetime(2020, 1, 1, tzinfo=UTC))
CHIEF, CHIEF_KEY = new_key("chief", admin=True)
DELEGATE = "the bridge's own token"
RING = KeyRing([KEY, SCOPED_KEY, LAPSED_KEY, CHIEF_KEY]).with_delegate(DELEGATE)


class Who(grpc.GenericRpcHandler):
    """Answers every unary method with its caller: name, tenant, tools, and whether it is an admin."""

    def service(self, details):
        async def answer(request, context):
            caller = CALLER.get()
            return json.dumps([caller.name, caller.tenant, caller.tools.globs, caller.admin]).encode()

        return grpc.unary_unary_rpc_method_handler(answer)


@pytest.fixture(params=[True], ids=["keys required"])
async def ask(request):
    """Calls a method with metadata; gives the caller that the handler saw."""
    server = grpc.aio.server(interceptors=[ErrorInterceptor(), AuthInterceptor(RING, required=request.param)])
    server.add_generic_rpc_handlers((Who(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def who(method=ECHO, **metadata):
            pairs = tuple((name.replace("_", "-"), value) for name, value in metadata.items())
            name, tenant, globs, admin = json.loads(await channel.unary_unary(method)(b"", metadata=pairs))
            return Principal(name, tenant, ToolScope(tuple(globs)), admin)

        yield who
    await server.stop(None)


async def test_a_known_key_is_its_principal(ask):
    assert await ask(authorization=f"Bearer {SECRET}") == Principal("ci", "acme")


@pytest.mark.parametrize(
    "authorization", [None, "Bearer wrong", f"Basic {SECRET}", "Bearer"], ids=["none", "wrong", "basic", "empty"]
)
async def test_anything_else_is_refused(ask, authorization):
    with pytest.raises(AioRpcError) as caught:
        await ask(**({"authorization": authorization} if authorization else {}))
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert SECRET not in (caught.value.details() or "")


async def test_health_needs_no_key(ask):
    assert await ask(HEALTH) == LOCAL


@pytest.mark.parametrize("ask", [False], ids=["keys optional"], indirect=True)
async def test_without_a_key_file_everyone_is_local(ask):
    assert await ask() == LOCAL
    assert await ask(authorization="Bearer whatever") == LOCAL


async def test_a_delegate_speaks_for_its_caller(ask):
    asserted = json.dumps({"name": "ann", "tenant": "blue"})
    assert await ask(authorization=f"Bearer {DELEGATE}", x_narthex_principal=asserted) == Principal("ann", "blue")


async def test_an_admin_is_one_only_where_it_speaks_for_itself(ask):
    assert (await ask(authorization=f"Bearer {CHIEF}")).admin
    claimed = json.dumps({"name": "ann", "tenant": "blue", "admin": True})
    for key in (CHIEF, DELEGATE):
        assert not (await ask(authorization=f"Bearer {key}", x_narthex_principal=claimed)).admin


async def test_nobody_else_does(ask):
    asserted = json.dumps({"name": "root", "tenant": "blue"})
    assert await ask(authorization=f"Bearer {SECRET}", x_narthex_principal=asserted) == Principal("ci", "acme")


@pytest.mark.parametrize("asserted", ["{", "[]", '{"name": "ann"}', '{"name": "", "tenant": "x"}', '{"name": 1}'])
async def test_a_delegates_unreadable_caller_is_an_error(ask, asserted):
    with pytest.raises(AioRpcError) as caught:
        await ask(authorization=f"Bearer {DELEGATE}", x_narthex_principal=asserted)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_key_brings_its_tools(ask):
    assert (await ask(authorization=f"Bearer {SCOPED}")).tools == ToolScope(("time__*",))


async def test_a_key_that_has_expired_is_refused_and_told(ask):
    with pytest.raises(AioRpcError, match="has expired"):
        await ask(authorization=f"Bearer {LAPSED}")


async def test_a_delegate_says_which_tools_its_caller_may_use(ask):
    asserted = json.dumps({"name": "ann", "tenant": "blue", "tools": ["chat"]})
    caller = await ask(authorization=f"Bearer {DELEGATE}", x_narthex_principal=asserted)
    assert caller == Principal("ann", "blue", ToolScope(("chat",)))


@pytest.mark.parametrize("ask", [True, False], ids=["keys required", "keys optional"], indirect=True)
async def test_anyone_may_ask_for_fewer_tools_and_nobody_for_more(ask):
    for secret, own in ((SECRET, ("*",)), (SCOPED, ("time__*",))):
        for wanted in (("chat",), ("*",), ()):
            asserted = json.dumps({"name": "root", "tenant": "blue", "tools": wanted})
            caller = await ask(authorization=f"Bearer {secret}", x_narthex_principal=asserted)
            assert caller.name in ("ci", "clock")
            assert caller.tools.globs == (wanted if own == ("*",) else own)


@pytest.mark.parametrize("ask", [False], ids=["keys optional"], indirect=True)
async def test_a_server_without_keys_still_holds_a_bridges_callers_to_their_tools(ask):
    asserted = json.dumps({"name": "ann", "tenant": "blue", "tools": ["chat"]})
    for metadata in ({}, {"authorization": "Bearer unknown"}):
        caller = await ask(x_narthex_principal=asserted, **metadata)
        assert caller == Principal("local", "default", ToolScope(("chat",)))


@pytest.mark.parametrize("tools", ["*", {"*": 1}, [1], ["x"] * 65, None])
async def test_tools_that_are_no_list_of_globs_are_refused(ask, tools):
    asserted = json.dumps({"name": "ann", "tenant": "blue", "tools": tools})
    with pytest.raises(AioRpcError) as caught:
        await ask(authorization=f"Bearer {DELEGATE}", x_narthex_principal=asserted)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("authorization", "asserted", "key", "voucher"),
    [
        (SECRET, "", "ci", ""),
        (DELEGATE, '{"name": "ann", "tenant": "acme"}', "", "bridge"),
        (DELEGATE, '{"name": "ci", "tenant": "acme"}', "ci", "bridge"),
        (DELEGATE, '{"name": "ci", "tenant": "umbrella"}', "", "bridge"),
    ],
    ids=["its own", "a delegate's", "both", "of another tenant"],
)
def test_it_is_known_whose_keys_a_callers_rights_are_of(authorization, asserted, key, voucher):
    caller = AuthInterceptor(RING, required=True)._caller(RING.principal(authorization), asserted)
    assert (caller.key, caller.voucher) == (key, voucher)
