"""mistral.rs's endpoints for models and adapters, against a server of the contract."""

import grpc
import pytest
from google.rpc import code_pb2
from narthex.settings import Address
from narthex.v1 import model_pb2 as wire
from narthex.v1 import model_pb2_grpc, tool_pb2_grpc
from narthex_bridge.config.bridge import BridgeConfig

from tests.unit.bridge.tool_server import refuse


class ModelServer(model_pb2_grpc.ModelServiceServicer, tool_pb2_grpc.ToolServiceServicer):
    """Models by name in any state, and one adapter."""

    def __init__(self):
        self.states = {"tiny": wire.MODEL_STATE_READY, "broken": wire.MODEL_STATE_FAILED}
        self.asked = []

    async def WatchTools(self, request, context):
        return
        yield

    async def GetModel(self, request, context):
        await self._known(request, context)
        state = self.states[request.name]
        failure = "no such file" if state == wire.MODEL_STATE_FAILED else ""
        return wire.GetModelResponse(model=wire.Model(name=request.name, state=state, failure=failure))

    async def UnloadModel(self, request, context):
        await self._known(request, context)
        if request.name == "broken":
            await refuse(context, code_pb2.PERMISSION_DENIED, "WHY", "You may not.")
        del self.states[request.name]
        return wire.UnloadModelResponse()

    async def LoadModel(self, request, context):
        self.asked.append(request)
        yield wire.LoadModelResponse(progress=wire.LoadProgress(fraction=0.5))
        if request.path == "nowhere":
            await refuse(context, code_pb2.NOT_FOUND, "WHY", "Nothing is there.")
        self.states[request.name] = wire.MODEL_STATE_READY
        yield wire.LoadModelResponse(model=wire.Model(name=request.name))

    async def ListAdapters(self, request, context):
        self.asked.append(request)
        return wire.ListAdaptersResponse(adapters=[wire.Adapter(name="poet", model="tiny", rank=8, scale=2)])

    async def LoadAdapter(self, request, context):
        self.asked.append(request)
        return wire.LoadAdapterResponse(adapter=wire.Adapter(name=request.name, model="tiny", rank=4, scale=1))

    async def UnloadAdapter(self, request, context):
        self.asked.append(request)
        return wire.UnloadAdapterResponse()

    async def _known(self, request, context):
        self.asked.append(request)
        if request.name not in self.states:
            await refuse(context, code_pb2.NOT_FOUND, "WHY", "There is no such model.")


@pytest.fixture
async def models():
    server, service = grpc.aio.server(), ModelServer()
    model_pb2_grpc.add_ModelServiceServicer_to_server(service, server)
    tool_pb2_grpc.add_ToolServiceServicer_to_server(service, server)
    service.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield service
    await server.stop(0)


@pytest.fixture
def config(models):
    return BridgeConfig(http=Address("127.0.0.1", 0), server=Address.parse(models.address), shutdown_grace=0.2)


async def post(bridge, route, **body):
    answer = await bridge.http.post(route, json=body)
    return answer.status_code, answer.json()


async def test_models_have_a_status(bridge, models):
    for state, status in (
        ("READY", "loaded"),
        ("IDLE", "unloaded"),
        ("LOADING", "reloading"),
        ("UNLOADING", "unloaded"),
    ):
        models.states["tiny"] = wire.ModelState.Value(f"MODEL_STATE_{state}")
        assert await post(bridge, "/v1/models/status", model_id="tiny") == (200, {"model_id": "tiny", "status": status})
    failed = {"model_id": "broken", "status": "internal_error", "error": "no such file"}
    assert await post(bridge, "/v1/models/status", model_id="broken") == (200, failed)
    assert (await post(bridge, "/v1/models/status", model_id="none"))[1]["status"] == "not_found"


async def test_models_are_unloaded_and_loaded(bridge, models):
    assert await post(bridge, "/v1/models/unload", model_id="tiny") == (200, {"model_id": "tiny", "status": "unloaded"})
    assert (await post(bridge, "/v1/models/unload", model_id="tiny"))[1]["status"] == "not_found"
    status, body = await post(bridge, "/v1/models/reload", model_id="tiny")
    assert status == 400 and "path is missing" in body["error"]["message"]
    loaded = await post(bridge, "/v1/models/reload", model_id="tiny", path="tiny.gguf", max_context=512)
    assert loaded == (200, {"model_id": "tiny", "status": "loaded"})
    assert models.asked[-1] == wire.LoadModelRequest(name="tiny", path="tiny.gguf", max_context=512)


async def test_failures_look_like_openais(bridge):
    status, body = await post(bridge, "/v1/models/unload", model_id="broken")
    assert (status, body["error"]["type"], body["error"]["message"]) == (403, "permission_error", "You may not.")
    assert (await post(bridge, "/v1/models/reload", model_id="x", path="nowhere"))[0] == 404
    assert (await post(bridge, "/v1/models/status"))[0] == 400
    assert (await post(bridge, "/v1/models/status", model_id=""))[0] == 400


async def test_adapters_are_listed_loaded_and_unloaded(bridge, models):
    listed = (await bridge.http.get("/v1/lora_adapters", params={"model": "default"})).json()
    poet = {"id": "poet", "object": "lora_adapter", "parent": "tiny", "rank": 8, "scale": 2.0}
    assert listed == {"object": "list", "data": [poet]}
    assert models.asked[-1] == wire.ListAdaptersRequest()
    status, body = await post(bridge, "/v1/load_lora_adapter", lora_name="bard", lora_path="bard", model="tiny")
    assert (status, body["id"], body["rank"]) == (200, "bard", 4)
    assert models.asked[-1] == wire.LoadAdapterRequest(model="tiny", name="bard", path="bard")
    status, body = await post(bridge, "/v1/unload_lora_adapter", lora_name="bard")
    assert (status, body) == (200, {"id": "bard", "object": "lora_adapter"})
    for changes in ({"load_inplace": True}, {"expected_generation": "5a"}, {"lora_path": None}):
        assert (await post(bridge, "/v1/load_lora_adapter", **{"lora_name": "b", "lora_path": "b"} | changes))[0] == 400


async def test_what_means_nothing_here_says_so(bridge):
    for method, path in (("POST", "/re_isq"), ("GET", "/calibration/status"), ("POST", "/v1/agent/approvals/a1")):
        answer = await bridge.http.request(method, path)
        assert answer.status_code == 501
        assert answer.json()["error"]["message"].startswith("narthex cannot do this: ")


async def test_health_needs_no_server(start_bridge, models):
    async with start_bridge() as bridge:
        answer = await bridge.http.get("/health")
        assert (answer.status_code, answer.text) == (200, "OK")
    async with start_bridge(mistralrs=False) as bridge:
        assert (await bridge.http.get("/health")).status_code == 404
        assert (await bridge.http.post("/re_isq")).status_code == 404
