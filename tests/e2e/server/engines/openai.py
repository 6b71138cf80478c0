"""An OpenAI-style engine in front of a narthex server: `python openai.py GRPC KEY`; prints its port when it listens."""

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config
from narthex import Client
from narthex.errors import NarthexError
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire
from narthex.v1.embedding_pb2 import EmbedInput, EmbedSpec
from quart import Quart, Response, request

ROLES = {
    "system": wire.ROLE_SYSTEM, "user": wire.ROLE_USER, "assistant": wire.ROLE_ASSISTANT, "tool": wire.ROLE_TOOL,
}  # fmt: skip
REASONS = {common.FINISH_REASON_LENGTH: "length", common.FINISH_REASON_TOOL_CALLS: "tool_calls"}


def message(given: dict[str, Any]) -> wire.ChatMessage:
    calls = [
        wire.ToolCall(id=one["id"], name=one["function"]["name"], arguments=one["function"]["arguments"].encode())
        for one in given.get("tool_calls", ())
    ]
    content = [wire.ContentPart(text=given["content"])] if given.get("content") else []
    return wire.ChatMessage(
        role=ROLES[given["role"]], content=content, tool_calls=calls, tool_call_id=given.get("tool_call_id", "")
    )


def tool(given: dict[str, Any]) -> wire.ToolSpec:
    function = given["function"]
    parameters = json.dumps(function["parameters"]).encode()
    return wire.ToolSpec(name=function["name"], description=function["description"], parameters=parameters)


def options(body: dict[str, Any]) -> dict[str, Any]:
    sampling, stopping = wire.SamplingOptions(), wire.StoppingOptions()
    for name in ("temperature", "seed"):
        if name in body:
            setattr(sampling, name, body[name])
    if "max_tokens" in body:
        stopping.max_tokens = body["max_tokens"]
    stopping.stop.extend(body.get("stop", ()))
    stopping.ignore_eos = body.get("ignore_eos", False)
    return {"sampling": sampling, "stopping": stopping, "model": body["model"]}


def usage(found: common.Usage) -> dict[str, Any]:
    details = {"cached_tokens": found.cached_tokens}
    return {
        "prompt_tokens": found.prompt_tokens,
        "completion_tokens": found.completion_tokens,
        "prompt_tokens_details": details,
    }


def event(**chunk: Any) -> bytes:
    return f"data: {json.dumps(chunk)}\n\n".encode()


def choice(finish_reason: str | None = None, **said: Any) -> bytes:
    return event(choices=[{"index": 0, "finish_reason": finish_reason, **said}])


async def chat_chunks(events: AsyncIterator[wire.ChatStreamResponse], first: Any) -> AsyncIterator[bytes]:
    index = -1
    async with aclosing(events):
        async for one in events:
            match one.WhichOneof("event"):
                case "text_delta":
                    yield choice(delta={"content": one.text_delta.text})
                case "tool_call":
                    index += 1
                    call, function = one.tool_call, {"name": one.tool_call.name, "arguments": ""}
                    yield choice(delta={"tool_calls": [{"index": index, "id": call.id, "function": function}]})
                    for letter in call.arguments.decode():
                        yield choice(delta={"tool_calls": [{"index": index, "function": {"arguments": letter}}]})
                case "finished":
                    yield choice(REASONS.get(one.finished.finish_reason, "stop"), delta={})
                    yield event(choices=[], usage=usage(one.finished.usage))
    yield b"data: [DONE]\n\n"


async def text_chunks(events: AsyncIterator[wire.GenerateStreamResponse], first: Any) -> AsyncIterator[bytes]:
    async with aclosing(events):
        async for one in events:
            match one.WhichOneof("event"):
                case "text_delta":
                    yield choice(text=one.text_delta.text)
                case "finished":
                    yield choice(REASONS.get(one.finished.finish_reason, "stop"), text="")
                    yield event(choices=[], usage=usage(one.finished.usage))
    yield b"data: [DONE]\n\n"


def application(client: Client, key: str) -> Quart:
    app = Quart(__name__)

    async def answered(events: Any, chunks: Any) -> Response:
        """The stream, once the server has accepted the request."""
        first = await anext(events)
        response = Response(chunks(events, first), content_type="text/event-stream")
        response.timeout = None
        return response

    @app.before_request
    async def authorise() -> Any:
        if request.headers.get("Authorization") != f"Bearer {key}":
            return {"error": {"message": f"{request.headers.get('Authorization')} is not a key"}}, 401
        return None

    @app.errorhandler(NarthexError)
    async def refused(error: NarthexError) -> Any:
        return {"error": {"message": error.message, "type": error.reason}}, 400

    @app.get("/v1/models")
    async def models() -> Any:
        found = await client.list_models()
        return {"data": [{"id": one.name, "owned_by": "narthex", "max_model_len": one.max_context} for one in found]}

    @app.post("/v1/chat/completions")
    async def chat() -> Response:
        body = await request.get_json()
        tools = [*map(tool, body.get("tools", ()))]
        spec = wire.ChatSpec(messages=[*map(message, body["messages"])], tools=tools, **options(body))
        return await answered(client.chat_stream(spec), chat_chunks)

    @app.post("/v1/completions")
    async def completions() -> Response:
        body = await request.get_json()
        spec = wire.GenerationSpec(text=body["prompt"], **options(body))
        return await answered(client.generate_stream(spec), text_chunks)

    @app.post("/v1/embeddings")
    async def embeddings() -> Any:
        body = await request.get_json()
        spec = EmbedSpec(inputs=[EmbedInput(text=text) for text in body["input"]], model=body["model"])
        made = await client.embed(spec)
        data = [{"index": index, "embedding": [*one.values]} for index, one in enumerate(made.embeddings)]
        return {"data": data, "usage": {"prompt_tokens": made.usage.prompt_tokens}}

    return app


async def main(target: str, key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = Config()
        config.bind, config.graceful_timeout = [f"fd://{listening.fileno()}"], 0
        async with Client(target) as client:
            print(listening.getsockname()[1], flush=True)
            await serve(application(client, key), config)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
