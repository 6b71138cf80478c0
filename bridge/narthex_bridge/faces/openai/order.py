"""A response that is asked for."""

from dataclasses import dataclass

from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.openai.asked import Asked
from narthex_bridge.http.refusal import Headers


@dataclass(frozen=True, slots=True)
class ResponseOrder:
    """The chat that makes it, on which terms, and how it is to be told."""

    chat: wire.ChatSpec
    options: common.CallOptions
    asked: Asked
    background: bool
    stream: bool
    headers: Headers
