"""The routes of this face."""

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.anthropic.endpoint import MessagesEndpoint
from narthex_bridge.faces.anthropic.face import AnthropicFace
from narthex_bridge.faces.work import Work
from narthex_bridge.http.routes import Route
from narthex_bridge.server.backend import Backend
from narthex_bridge.server.inference import Inference


def anthropic_routes(config: BridgeConfig, inference: Inference, backend: Backend, work: Work) -> list[Route]:
    """Everything under /v1/messages."""
    face = AnthropicFace()
    messages = MessagesEndpoint(config, inference, backend, work, face)
    return [
        Route("POST", "/v1/messages", messages.create, face),
        Route("POST", "/v1/messages/count_tokens", messages.count_tokens, face),
    ]
