"""Every call has a request id, echoed to the caller."""

import logging

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from narthex.v1 import model_pb2, model_pb2_grpc
from narthex_server.interceptors.requests import RequestInterceptor, request_id
from narthex_server.principal import REQUEST_ID
from narthex_server.principal import REQUEST_ID_HEADER as HEADER

REQUEST = health_pb2.HealthCheckRequest()


class Seeing(health_pb2_grpc.HealthServicer):
    """Remembers the request id that the handler saw."""

    seen = ""

    async def Check(self, request, context):
        self.seen = REQUEST_ID.get()
        return health_pb2.HealthCheckResponse()

    async def Watch(self, request, context):
        self.seen = REQUEST_ID.get()
        yield health_pb2.HealthCheckResponse()


@pytest.mark.parametrize("method", ["Check", "Watch"])
async def test_a_sane_id_of_the_caller_is_kept_and_echoed(serve, method):
    servicer = Seeing()
    stub = await serve(servicer, [RequestInterceptor()])
    call = getattr(stub, method)(REQUEST, metadata=((HEADER, "order-7"),))
    assert dict(await call.initial_metadata())[HEADER] == "order-7"
    await (call if method == "Check" else call.read())
    assert servicer.seen == "order-7"


@pytest.mark.parametrize("given", ["", "has space", "x" * 129, "new\nline"])
def test_an_unfit_id_is_none(given):
    assert request_id(((HEADER, given),)) is None


async def test_each_call_has_its_own_id(serve):
    stub = await serve(Seeing(), [RequestInterceptor()])
    ids = {dict(await stub.Check(REQUEST).initial_metadata())[HEADER] for _ in range(3)}
    assert len(ids) == 3 and all(len(made) == 32 for made in ids)


async def test_health_checks_are_not_logged(serve, caplog):
    stub = await serve(Seeing(), [RequestInterceptor()])
    with caplog.at_level(logging.INFO):
        await stub.Check(REQUEST)
    assert "Check" not in caplog.text


class Listing(model_pb2_grpc.ModelServiceServicer):
    async def ListModels(self, request, context):
        return model_pb2.ListModelsResponse()


@pytest.mark.parametrize(("level", "told"), [(logging.INFO, False), (logging.DEBUG, True)])
async def test_what_watchers_ask_each_second_is_logged_for_debugging_alone(serve, caplog, level, told):
    add, stub_of = model_pb2_grpc.add_ModelServiceServicer_to_server, model_pb2_grpc.ModelServiceStub
    stub = await serve(Listing(), [RequestInterceptor()], add, stub_of)
    with caplog.at_level(level, "narthex_server.interceptors.requests"):
        await stub.ListModels(model_pb2.ListModelsRequest())
        with pytest.raises(grpc.aio.AioRpcError):
            await stub.GetModel(model_pb2.GetModelRequest())
    assert ("ListModels OK" in caplog.text) is told
    assert "GetModel" in caplog.text
