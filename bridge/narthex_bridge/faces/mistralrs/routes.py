"""The routes of this face."""

from collections.abc import Mapping
from types import MappingProxyType

from narthex_bridge.faces.mistralrs.adapters import AdaptersEndpoint
from narthex_bridge.faces.mistralrs.models import ModelsEndpoint
from narthex_bridge.faces.openai.face import OpenAiFace
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.http.routes import Route
from narthex_bridge.server.inference import Inference

_CALIBRATION = "caches are calibrated when a model is loaded, and weights are not quantised again"
_MACHINE = "this would tell of the bridge's machine; /metrics of the server and GET /v1/models tell what it runs on"
_UNSUPPORTED: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("POST", "/re_isq"): "weights are quantised when a model is loaded, not again while it runs",
        ("POST", "/calibration/start"): _CALIBRATION,
        ("GET", "/calibration/status"): _CALIBRATION,
        ("POST", "/calibration/apply"): _CALIBRATION,
        ("POST", "/v1/models/tune"): "what suits the machine is chosen when a model is loaded",
        ("GET", "/v1/system/info"): _MACHINE,
        ("POST", "/v1/system/doctor"): _MACHINE,
        ("POST", "/v1/agent/approvals/{id}"): "tools are allowed or not by the server's configuration, and never ask",
    }
)


def mistralrs_routes(inference: Inference, work: Work) -> list[Route]:
    """What mistral.rs has beside OpenAI's and Anthropic's endpoints; errors look like OpenAI's there, too."""
    face = OpenAiFace()
    models, adapters = ModelsEndpoint(inference, work), AdaptersEndpoint(inference, work)
    return [
        Route("POST", "/v1/models/status", models.status, face),
        Route("POST", "/v1/models/unload", models.unload, face),
        Route("POST", "/v1/models/reload", models.reload, face),
        Route("GET", "/v1/lora_adapters", adapters.list, face),
        Route("POST", "/v1/load_lora_adapter", adapters.load, face),
        Route("POST", "/v1/unload_lora_adapter", adapters.unload, face),
        *(Route(method, path, Unsupported(why).refuse, face) for (method, path), why in _UNSUPPORTED.items()),
    ]


class Unsupported:
    """An endpoint that exists there and means nothing here."""

    def __init__(self, why: str) -> None:
        self._why = why

    async def refuse(self, http: HttpRequest) -> HttpResponse:
        raise Refusal(501, f"narthex cannot do this: {self._why}.", reason="UNSUPPORTED")
