"""The routes of this face."""

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.openai.background import Background
from narthex_bridge.faces.openai.chat import ChatEndpoint
from narthex_bridge.faces.openai.completions import CompletionsEndpoint
from narthex_bridge.faces.openai.embeddings import EmbeddingsEndpoint
from narthex_bridge.faces.openai.face import OpenAiFace
from narthex_bridge.faces.openai.models import ModelsEndpoint
from narthex_bridge.faces.openai.responses import ResponsesEndpoint
from narthex_bridge.faces.work import Work
from narthex_bridge.http.routes import Route
from narthex_bridge.server.backend import Backend
from narthex_bridge.server.inference import Inference
from narthex_bridge.server.lot import Lot


def openai_routes(config: BridgeConfig, inference: Inference, backend: Backend, lot: Lot, work: Work) -> list[Route]:
    """Everything under /v1."""
    models = ModelsEndpoint(inference)
    background = Background(config, lot, work)
    face = OpenAiFace()
    return [
        Route("GET", "/v1/models", models.list, face),
        Route("GET", "/v1/models/{id}", models.get, face),
        Route("POST", "/v1/chat/completions", ChatEndpoint(config, inference, work).post, face),
        Route("POST", "/v1/completions", CompletionsEndpoint(config, inference, work).post, face),
        Route("POST", "/v1/embeddings", EmbeddingsEndpoint(inference, work).post, face),
        Route("POST", "/v1/responses", ResponsesEndpoint(config, inference, backend, work, background).post, face),
        Route("GET", "/v1/responses/{id}", background.get, face),
        Route("DELETE", "/v1/responses/{id}", background.delete, face),
        Route("POST", "/v1/responses/{id}/cancel", background.cancel, face),
    ]
