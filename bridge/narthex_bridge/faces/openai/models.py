"""GET /v1/models and /v1/models/{id}."""

from typing import Any

import orjson
from narthex.v1 import model_pb2 as wire

from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.server.inference import Inference

_STATES = {
    wire.MODEL_STATE_LOADING: "loading", wire.MODEL_STATE_READY: "ready", wire.MODEL_STATE_UNLOADING: "unloading",
    wire.MODEL_STATE_FAILED: "failed", wire.MODEL_STATE_IDLE: "idle",
}  # fmt: skip


class ModelsEndpoint:
    """The models that requests can name."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def list(self, http: HttpRequest) -> HttpResponse:
        found = await self._inference.list_models(http.caller, http.request_id, wire.ListModelsRequest())
        return HttpResponse(200, orjson.dumps({"object": "list", "data": [_model(model) for model in found.models]}))

    async def get(self, http: HttpRequest) -> HttpResponse:
        asked = wire.GetModelRequest(name=http.path["id"])
        found = await self._inference.get_model(http.caller, http.request_id, asked)
        return HttpResponse(200, orjson.dumps(_model(found.model)))


def _model(model: wire.Model) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.ready_time.seconds,
        "owned_by": "narthex",
        "status": _STATES.get(model.state, "unknown"),
        "max_model_len": model.max_context,
        "capabilities": [_capability(capability) for capability in model.capabilities],
    }


def _capability(capability: wire.Capability.ValueType) -> str:
    if capability not in wire.Capability.values():
        return "unknown"
    return wire.Capability.Name(capability).removeprefix("CAPABILITY_").lower()
