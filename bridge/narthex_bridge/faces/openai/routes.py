"""The routes of this face."""

from narthex_bridge.backend import Backend
from narthex_bridge.config import BridgeConfig
from narthex_bridge.faces.openai.face import OpenAiFace
from narthex_bridge.faces.openai.models import ModelsEndpoint
from narthex_bridge.faces.work import Work
from narthex_bridge.inference import Inference
from narthex_bridge.routes import Route


def openai_routes(config: BridgeConfig, inference: Inference, backend: Backend, work: Work) -> list[Route]:
    """Everything under /v1."""
    models = ModelsEndpoint(inference)
    face = OpenAiFace()
    return [
        Route("GET", "/v1/models", models.list, face),
        Route("GET", "/v1/models/{id}", models.get, face),
    ]
