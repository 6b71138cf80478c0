"""Which services a server has, and under which names."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from grpc.aio import Server
from narthex.v1 import (
    embedding_pb2,
    embedding_pb2_grpc,
    generation_pb2,
    generation_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    lot_pb2,
    lot_pb2_grpc,
    model_pb2,
    model_pb2_grpc,
    speech_pb2,
    speech_pb2_grpc,
    tool_pb2,
    tool_pb2_grpc,
    upstream_pb2,
    upstream_pb2_grpc,
)

from narthex_server.services.complete import complete

_PARTS = (
    (embedding_pb2, embedding_pb2_grpc, "EmbeddingService"),
    (generation_pb2, generation_pb2_grpc, "GenerationService"),
    (image_pb2, image_pb2_grpc, "ImageService"),
    (lot_pb2, lot_pb2_grpc, "LotService"),
    (model_pb2, model_pb2_grpc, "ModelService"),
    (speech_pb2, speech_pb2_grpc, "SpeechService"),
    (tool_pb2, tool_pb2_grpc, "ToolService"),
    (upstream_pb2, upstream_pb2_grpc, "UpstreamService"),
)


def contract() -> tuple[ServiceDescriptor, ...]:
    """Every service of the contract, built or not."""
    return tuple(messages.DESCRIPTOR.services_by_name[name] for messages, _, name in _PARTS)


def register(server: Server, servicers: Mapping[str, Any]) -> None:
    """Adds all services of the contract; one without a servicer answers UNIMPLEMENTED to everything."""
    for messages, stubs, name in _PARTS:
        service = messages.DESCRIPTOR.services_by_name[name]
        servicer = servicers.get(name) or complete(service)(type(name, (), {}))()
        getattr(stubs, f"add_{name}Servicer_to_server")(servicer, server)
