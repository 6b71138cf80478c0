"""GET /v1/models."""

import openai
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from narthex.v1 import model_pb2 as wire

MODEL = wire.Model(
    name="org/one", state=wire.MODEL_STATE_READY, max_context=64, capabilities=[wire.CAPABILITY_CHAT],
    ready_time=Timestamp(seconds=12),
)  # fmt: skip


async def test_models_are_listed(client, models):
    models.reply = wire.ListModelsResponse(models=[MODEL, wire.Model(name="two", state=wire.MODEL_STATE_IDLE)])
    first, second = (await client.models.list()).data
    assert (first.id, first.created, first.object, first.owned_by) == ("org/one", 12, "model", "narthex")
    assert (first.status, first.max_model_len, first.capabilities) == ("ready", 64, ["chat"])
    assert (second.id, second.status) == ("two", "idle")


async def test_a_model_may_have_slashes_in_its_name(bridge, client, models):
    models.reply = wire.GetModelResponse(model=MODEL)
    assert (await client.models.retrieve("org/one")).id == "org/one"
    assert (await bridge.http.get("/v1/models/org/one")).json()["id"] == "org/one"
    assert [asked.name for asked in models.asked] == ["org/one"] * 2


async def test_an_unknown_model_is_not_found(client, models, fault, codes):
    models.fault = fault(codes.NOT_FOUND, "MODEL_NOT_FOUND", "there is no model 'x'")
    with pytest.raises(openai.NotFoundError, match="no model 'x'"):
        await client.models.retrieve("x")


async def test_metrics_name_the_pattern(bridge, models):
    models.reply = wire.GetModelResponse(model=MODEL)
    await bridge.http.get("/v1/models/one")
    page = (await bridge.http.get("/metrics")).text
    assert 'narthex_bridge_requests_total{method="GET",route="/v1/models/{id}",status="200"} 1.0' in page
