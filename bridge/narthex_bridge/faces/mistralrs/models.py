"""/v1/models/unload, /v1/models/reload and /v1/models/status."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

import orjson
from narthex.v1 import model_pb2 as wire

from narthex_bridge.faces.body import Fields, fields
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.protocol.failures import BackendError
from narthex_bridge.server.inference import Inference

_STATUSES = {
    wire.MODEL_STATE_READY: "loaded", wire.MODEL_STATE_LOADING: "reloading", wire.MODEL_STATE_IDLE: "unloaded",
    wire.MODEL_STATE_UNLOADING: "unloaded", wire.MODEL_STATE_FAILED: "internal_error",
}  # fmt: skip


class ModelsEndpoint:
    """A model that is unloaded is gone: unlike there, it comes back only when it is loaded with its path."""

    def __init__(self, inference: Inference, work: Work) -> None:
        self._inference = inference
        self._work = work

    async def status(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        name = _name(body)
        try:
            found = await self._inference.get_model(http.caller, http.request_id, wire.GetModelRequest(name=name))
        except BackendError as failure:
            return _unknown(body, failure)
        return _told(body, _STATUSES.get(found.model.state, "internal_error"), found.model.failure)

    async def unload(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        asked = wire.UnloadModelRequest(name=_name(body))
        try:
            await self._work.run(self._inference.unload_model(http.caller, http.request_id, asked))
        except BackendError as failure:
            return _unknown(body, failure)
        return _told(body, "unloaded")

    async def reload(self, http: HttpRequest) -> HttpResponse:
        """Loads a model under `model_id` from `path`, which narthex needs besides."""
        body = fields(http.body)
        path = body.text("path")
        if path is None:
            text = "is missing: where the server finds the model; one that is only idle is loaded by its next request"
            raise body.fault("path", text)
        asked = wire.LoadModelRequest(
            name=_name(body),
            path=path,
            compute=body.text("compute") or "",
            max_context=body.whole("max_context") or 0,
            max_slots=body.whole("max_slots") or 0,
        )
        await self._work.run(_to_the_end(self._inference.load_model(http.caller, http.request_id, asked)))
        return _told(body, "loaded")


async def _to_the_end(events: AsyncGenerator[wire.LoadModelResponse, None]) -> None:
    async with aclosing(events):
        async for _ in events:
            pass


def _name(body: Fields) -> str:
    name = body.needed_text("model_id")
    if not name:
        raise body.fault("model_id", "must not be empty")
    return name


def _unknown(body: Fields, failure: BackendError) -> HttpResponse:
    """There, a model that is not there is a status and no error. Raises Refusal for every other failure."""
    if failure.status == "NOT_FOUND":
        return _told(body, "not_found")
    raise Refusal.of(failure) from None


def _told(body: Fields, status: str, error: str = "") -> HttpResponse:
    answer = {"model_id": body.text("model_id"), "status": status}
    return HttpResponse(200, orjson.dumps(answer | {"error": error} if error else answer))
