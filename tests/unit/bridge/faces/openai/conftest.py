"""The official client, and what it cannot show: the body of a stream."""

import json

import openai
import pytest


@pytest.fixture
def client(bridge) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{bridge.url}/v1", api_key="none", max_retries=0, http_client=bridge.http)


@pytest.fixture
def post(bridge):
    """Sends a body to a path below /v1."""

    async def send(path, **body):
        return await bridge.http.post(f"/v1/{path}", json=body)

    return send


@pytest.fixture
def data(post):
    """Sends a body; gives the JSON of each data line of its stream, `[DONE]` as it is."""

    async def send(path, **body):
        answer = await post(path, **body, stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream"), answer.text
        lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    return send
