"""/v1/lora_adapters, /v1/load_lora_adapter and /v1/unload_lora_adapter."""

from typing import Any

import orjson
from narthex.v1 import model_pb2 as wire

from narthex_bridge.faces.body import Fields, fields
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.server.inference import Inference

_DEFAULT_MODEL = "default"


class AdaptersEndpoint:
    """Adapters by name. There are no generations here: a name means one adapter until it is unloaded."""

    def __init__(self, inference: Inference, work: Work) -> None:
        self._inference = inference
        self._work = work

    async def list(self, http: HttpRequest) -> HttpResponse:
        asked = wire.ListAdaptersRequest(model=_model(http.query.get("model")))
        found = await self._inference.list_adapters(http.caller, http.request_id, asked)
        body = {"object": "list", "data": [_object(adapter) for adapter in found.adapters]}
        return HttpResponse(200, orjson.dumps(body))

    async def load(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        if body.flag("load_inplace") or body.flag("replace"):
            raise body.fault("load_inplace", "is not supported here: unload the adapter, or load another name")
        _no_generation(body)
        asked = wire.LoadAdapterRequest(
            model=_model(body.text("model")), name=body.needed_text("lora_name"), path=body.needed_text("lora_path")
        )
        loaded = await self._work.run(self._inference.load_adapter(http.caller, http.request_id, asked))
        return HttpResponse(200, orjson.dumps(_object(loaded.adapter)))

    async def unload(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        _no_generation(body)
        asked = wire.UnloadAdapterRequest(model=_model(body.text("model")), name=body.needed_text("lora_name"))
        await self._work.run(self._inference.unload_adapter(http.caller, http.request_id, asked))
        return HttpResponse(200, orjson.dumps({"id": asked.name, "object": "lora_adapter"}))


def _model(name: str | None) -> str:
    return "" if name is None or name == _DEFAULT_MODEL else name


def _no_generation(body: Fields) -> None:
    if "expected_generation" in body:
        raise body.fault("expected_generation", "is not supported here: adapters have no generations")


def _object(adapter: wire.Adapter) -> dict[str, Any]:
    about = {"id": adapter.name, "object": "lora_adapter", "parent": adapter.model}
    return {**about, "rank": adapter.rank, "scale": adapter.scale}
