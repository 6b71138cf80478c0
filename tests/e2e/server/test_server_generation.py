"""Generation over gRPC with the demo model: what streams say, how they end, and what bad input gets."""

import asyncio
import math

import grpc
import pytest
from narthex.v1 import common_pb2, model_pb2, model_pb2_grpc
from narthex.v1 import generation_pb2 as wire
from narthex.v1.generation_pb2_grpc import GenerationServiceStub


@pytest.fixture(scope="module")
def server(launch, demo):
    """One slot: whoever gets it proves that the one before gave it back."""
    return launch("--model", demo, "--max-slots", "1")


@pytest.fixture
def stub(channel):
    return GenerationServiceStub(channel)


def chat(text: str = "Hello!", **fields) -> wire.ChatSpec:
    spec = wire.ChatSpec(messages=[wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(text=text)])])
    spec.sampling.temperature = 0
    spec.stopping.max_tokens = 32
    spec.MergeFrom(wire.ChatSpec(**fields))
    return spec


def endless() -> wire.GenerateStreamRequest:
    """As long as the context allows: seconds of work."""
    spec = wire.GenerationSpec(text="The time", stopping=wire.StoppingOptions(ignore_eos=True))
    return wire.GenerateStreamRequest(spec=spec)


async def answered(stub) -> str:
    """The text of a short chat; within the time, so a slot was free."""
    reply = await stub.Chat(wire.ChatRequest(spec=chat()), timeout=20)
    return reply.messages[-1].content[0].text


async def test_a_chat_streams_started_then_text_then_finished(stub):
    events = [event async for event in stub.ChatStream(wire.ChatStreamRequest(spec=chat()))]
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "started" and kinds[-1] == "finished" and set(kinds[1:-1]) == {"text_delta"}
    assert events[0].started.model == "demo" and events[0].round == 0
    finished = events[-1].finished
    assert finished.finish_reason in (common_pb2.FINISH_REASON_STOP, common_pb2.FINISH_REASON_LENGTH)
    assert 0 < finished.usage.completion_tokens <= 32 and finished.usage.prompt_tokens > 0
    text = "".join(event.text_delta.text for event in events)
    assert text == await answered(stub), "the unary call is the stream, collected"


async def test_a_streams_id_is_the_callers_request_id(stub):
    call = stub.ChatStream(wire.ChatStreamRequest(spec=chat()), metadata=(("x-request-id", "mine-1"),))
    first = await call.read()
    assert first.started.request_id == "mine-1"
    assert dict(await call.initial_metadata())["x-request-id"] == "mine-1"
    call.cancel()


async def test_token_ids_come_and_text_stays_away_as_asked(stub):
    response = wire.ResponseOptions(text=False, token_ids=True, prompt_token_ids=True)
    spec = wire.GenerationSpec(text="Hello", response=response, stopping=wire.StoppingOptions(max_tokens=8))
    spec.sampling.temperature = 0
    reply = await stub.Generate(wire.GenerateRequest(spec=spec))
    assert reply.text == "" and 0 < len(reply.token_ids) <= 8 and len(reply.prompt.token_ids) > 0
    spec.response.text = True
    again = await stub.Generate(wire.GenerateRequest(spec=spec))
    assert list(again.token_ids) == list(reply.token_ids) and again.text


def completion(**fields) -> wire.GenerationSpec:
    spec = wire.GenerationSpec(text="The time in Rome", stopping=wire.StoppingOptions(max_tokens=12, min_tokens=12))
    spec.MergeFrom(wire.GenerationSpec(**fields))
    return spec


async def test_tokens_and_prompt_come_with_their_log_probabilities(stub):
    response = wire.ResponseOptions(token_ids=True, prompt_token_ids=True, logprobs=3, prompt_logprobs=2)
    spec = completion(response=response, sampling=wire.SamplingOptions(temperature=0))
    reply = await stub.Generate(wire.GenerateRequest(spec=spec))
    assert [one.chosen.token_id for one in reply.logprobs] == list(reply.token_ids)
    assert b"".join(one.chosen.token for one in reply.logprobs).decode() == reply.text
    assert all(len(one.candidates) == 3 for one in reply.logprobs)
    # Where it is not the most probable one, that was an end that came before min_tokens.
    assert all(one.candidates[one.chosen.rank - 1] == one.chosen for one in reply.logprobs)
    first, *scored = reply.prompt.logprobs
    assert not first.HasField("chosen")
    assert [one.chosen.token_id for one in scored] == list(reply.prompt.token_ids)[1:]
    events = [event async for event in stub.GenerateStream(wire.GenerateStreamRequest(spec=spec))]
    streamed = [one.chosen for event in events for one in event.text_delta.logprobs]
    for again, before in ((events[0].started.prompt.logprobs, reply.prompt.logprobs), (streamed, reply.logprobs)):
        pairs = list(zip((getattr(one, "chosen", one) for one in again), (one.chosen for one in before), strict=True))
        assert all(one.token_id == other.token_id for one, other in pairs)
        # Drafts and parts of prompts are computed by other kernels than single tokens, with last digits of their own.
        assert all(math.isclose(one.logprob, other.logprob, abs_tol=0.02) for one, other in pairs)
    assert all(len(event.text_delta.token_ids) == len(event.text_delta.logprobs) for event in events)


async def test_the_text_of_a_continued_prompt_scores_as_it_was_generated(stub):
    """Scored as a prompt, a completion has the probabilities that it was drawn with."""
    response = wire.ResponseOptions(token_ids=True, prompt_token_ids=True, logprobs=0)
    drawn = await stub.Generate(wire.GenerateRequest(spec=completion(response=response)))
    whole = common_pb2.TokenIds(ids=[*drawn.prompt.token_ids, *drawn.token_ids])
    spec = wire.GenerationSpec(token_ids=whole, stopping=wire.StoppingOptions(max_tokens=1))
    spec.response.prompt_logprobs = 0
    scored = (await stub.Generate(wire.GenerateRequest(spec=spec))).prompt.logprobs[-len(drawn.token_ids) :]
    given = [one.chosen.logprob for one in drawn.logprobs]
    assert [one.chosen.logprob for one in scored] == pytest.approx(given, abs=0.5)  # int8 activations, in other groups


async def test_several_completions_come_in_one_answer(stub):
    response = wire.ResponseOptions(token_ids=True, logprobs=0, echo=True)
    spec = completion(response=response, n=4, sampling=wire.SamplingOptions(seed=2**64 - 2, temperature=3))
    reply = await stub.Generate(wire.GenerateRequest(spec=spec))
    made = [reply, *reply.further_completions]
    assert len(made) == 4 and len({one.text for one in made}) > 1
    assert all(one.text.startswith("The time in Rome") for one in made)
    assert all(len(one.token_ids) == len(one.logprobs) == 12 for one in made)
    assert reply.finished.usage.completion_tokens == 48 and not made[1].finished.HasField("usage")
    for index, seed in enumerate((2**64 - 2, 2**64 - 1, 0, 1)):
        alone = completion(response=response, sampling=wire.SamplingOptions(seed=seed, temperature=3))
        assert (await stub.Generate(wire.GenerateRequest(spec=alone))).text == made[index].text
    events = [event async for event in stub.GenerateStream(wire.GenerateStreamRequest(spec=spec))]
    assert [event.WhichOneof("event") for event in events].count("started") == 1
    for index, one in enumerate(made):
        mine = [event for event in events if event.index == index]
        assert "".join(event.text_delta.text for event in mine) == one.text
        assert mine[-1].finished.finish_reason == one.finished.finish_reason
    assert events[-1].finished.usage.completion_tokens == 48
    prompt = (await stub.Generate(wire.GenerateRequest(spec=completion()))).finished.usage.prompt_tokens
    assert events[-1].finished.usage.prompt_tokens == reply.finished.usage.prompt_tokens == prompt


async def test_several_answers_come_in_one_chat_and_leaving_it_ends_all(stub):
    spec = chat(n=3, sampling=wire.SamplingOptions(temperature=1.5, seed=3))
    reply = await stub.Chat(wire.ChatRequest(spec=spec))
    said = [reply.messages[0], *(one.message for one in reply.further_completions)]
    assert len(said) == 3 and all(message.role == wire.ROLE_ASSISTANT for message in said)
    spec.stopping.max_tokens, spec.stopping.ignore_eos = 500, True
    stream = stub.ChatStream(wire.ChatStreamRequest(spec=spec))
    while (await stream.read()).WhichOneof("event") != "text_delta":
        pass
    stream.cancel()
    assert await answered(stub)


async def test_sampling_options_do_what_they_say(stub):
    async def ids(**options):
        spec = completion(sampling=wire.SamplingOptions(temperature=0, **options))
        spec.response.token_ids = True
        return list((await stub.Generate(wire.GenerateRequest(spec=spec))).token_ids)

    plain = await ids()
    assert set(await ids(allowed_token_ids=[40, 41])) <= {40, 41}
    assert await ids(logit_bias={40: 100}) == [40] * 12
    assert len(set(await ids(logit_bias={40: 100}, frequency_penalty=2, presence_penalty=2))) == 1
    assert await ids(logit_bias={40: 100, 41: 90}) == [40] * 12
    assert (await ids(logit_bias={40: 100, 41: 90}, dry=wire.DryOptions(multiplier=30)))[:4] == [40, 40, 40, 41]
    assert await ids(repetition_penalty=1) == plain


async def test_a_seed_repeats_its_text(stub):
    def asked(seed):
        sampling = wire.SamplingOptions(temperature=1.5, seed=seed)
        stopping = wire.StoppingOptions(max_tokens=24, ignore_eos=True)
        return wire.GenerateRequest(spec=wire.GenerationSpec(text="Once", sampling=sampling, stopping=stopping))

    one, two, other = [(await stub.Generate(asked(seed))).text for seed in (7, 7, 8)]
    assert one == two != other


async def test_a_stop_string_ends_the_text_and_is_named(stub):
    whole = await answered(stub)
    stop = whole[4:7]
    reply = await stub.Chat(wire.ChatRequest(spec=chat(stopping=wire.StoppingOptions(stop=[stop]))))
    assert reply.messages[0].content[0].text == whole[: whole.index(stop)]
    assert reply.finished.stop_string == stop


async def test_a_dropped_stream_frees_its_slot(stub, server):
    stream = stub.GenerateStream(endless())
    for _ in range(3):
        await stream.read()
    stream.cancel()
    await answered(stub)
    assert server.metric("narthex_num_requests_running", model_name="demo") == 0
    assert server.metric("narthex_request_success_total", model_name="demo", finished_reason="cancelled") >= 1


async def test_a_passed_deadline_frees_the_slot(stub, failure):
    caught = await failure(stub.GenerateStream(endless(), timeout=0.3))
    assert caught.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await answered(stub)


async def test_abort_ends_a_stream_with_what_it_has(stub):
    stream = stub.GenerateStream(endless(), metadata=(("x-request-id", "to-abort"),))
    while (await stream.read()).WhichOneof("event") != "text_delta":
        pass
    reply = await stub.Abort(wire.AbortRequest(request_ids=["to-abort", "unknown"]))
    assert list(reply.aborted_request_ids) == ["to-abort"]
    async with asyncio.timeout(10):
        while (event := await stream.read()).WhichOneof("event") != "finished":
            pass
    assert event.finished.finish_reason == common_pb2.FINISH_REASON_CANCELLED
    assert event.finished.usage.completion_tokens > 0


async def test_text_and_tokens_turn_into_each_other(stub):
    tokens = (await stub.Tokenize(wire.TokenizeRequest(text="Hello, wörld", add_special_tokens=False))).token_ids
    assert (await stub.Detokenize(wire.DetokenizeRequest(token_ids=tokens))).text == "Hello, wörld"
    counted = await stub.CountTokens(wire.CountTokensRequest(chat=wire.ChatInput(messages=chat().messages)))
    assert 0 < counted.tokens < counted.max_context


async def test_counting_nothing_is_refused(stub):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.CountTokens(wire.CountTokensRequest())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_models_are_listed_with_what_they_can_do(channel):
    models = model_pb2_grpc.ModelServiceStub(channel)
    listed = (await models.ListModels(model_pb2.ListModelsRequest())).models
    assert [model.name for model in listed] == ["demo"]
    model = (await models.GetModel(model_pb2.GetModelRequest())).model
    assert model == listed[0] and model.max_slots == 1 and model.state == model_pb2.MODEL_STATE_READY
    assert {model_pb2.CAPABILITY_CHAT, model_pb2.CAPABILITY_LOGPROBS} <= {*model.capabilities}
    assert model_pb2.CAPABILITY_EMBED not in model.capabilities


def user(**part) -> wire.ChatMessage:
    return wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart(**part)])


BAD = {
    "unknown model": (chat(model="gpt-9"), "NOT_FOUND", "MODEL_NOT_FOUND", []),
    "prompt too long": (chat("word " * 4000), "INVALID_ARGUMENT", "CONTEXT_OVERFLOW", []),
    "max_tokens too many": (
        chat(stopping=wire.StoppingOptions(max_tokens=10**9)), "INVALID_ARGUMENT", "CONTEXT_OVERFLOW", []
    ),
    "no messages": (wire.ChatSpec(), "INVALID_ARGUMENT", "INVALID_REQUEST", ["messages"]),
    "no role": (
        wire.ChatSpec(messages=[wire.ChatMessage()]), "INVALID_ARGUMENT", "INVALID_REQUEST", ["messages[0].role"]
    ),
    "a picture": (
        wire.ChatSpec(messages=[user(image=wire.Media(data=b"x"))]),
        "INVALID_ARGUMENT", "INVALID_REQUEST", ["messages[0].content[0].image"],
    ),
    "max_tokens 0": (
        chat(stopping=wire.StoppingOptions(max_tokens=0)), "INVALID_ARGUMENT", "INVALID_REQUEST",
        ["stopping.max_tokens"],
    ),
    "an empty stop string": (
        chat(stopping=wire.StoppingOptions(stop=[""])), "INVALID_ARGUMENT", "INVALID_REQUEST", ["stopping.stop"]
    ),
    "a tool without a schema": (
        chat(tools=[wire.ToolSpec(name="x", parameters=b"[1]")]),
        "INVALID_ARGUMENT", "INVALID_REQUEST", ["tools[0].parameters"],
    ),
    "a catalog tool that is not": (
        chat(tool_execution=wire.TOOL_EXECUTION_SERVER, catalog_tools=["nope"]), "NOT_FOUND", "NOT_FOUND", []
    ),
    "a constraint": (
        chat(constraint=wire.Constraint(regex="a(")), "INVALID_ARGUMENT", "INVALID_CONSTRAINT", ["constraint.regex"],
    ),
    "too many candidates": (
        chat(response=wire.ResponseOptions(logprobs=21)), "INVALID_ARGUMENT", "INVALID_REQUEST", ["response.logprobs"],
    ),
    "no answers": (chat(n=0), "INVALID_ARGUMENT", "INVALID_REQUEST", ["n"]),
    "an echo": (
        chat(response=wire.ResponseOptions(echo=True)), "INVALID_ARGUMENT", "INVALID_REQUEST", ["response.echo"],
    ),
    "a token that is not": (
        chat(sampling=wire.SamplingOptions(logit_bias={10**6: 1})),
        "INVALID_ARGUMENT", "INVALID_REQUEST", ["sampling.logit_bias"],
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spec", "code", "reason", "fields"), BAD.values(), ids=BAD)
async def test_a_bad_request_gets_a_typed_error_and_the_next_one_works(stub, failure, spec, code, reason, fields):
    caught = await failure(stub.ChatStream(wire.ChatStreamRequest(spec=spec)))
    assert (caught.code.name, caught.reason, caught.fields) == (code, reason, fields), caught.text
    assert await answered(stub)


async def test_absurdly_many_completions_are_refused_before_there_is_room_for_them(stub, failure):
    spec = wire.GenerationSpec(text="Hi", n=2**32 - 1)
    caught = await failure(stub.Generate(wire.GenerateRequest(spec=spec), timeout=10))
    assert (caught.code, caught.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["n"])


@pytest.mark.parametrize("field", ["temperature", "top_p", "min_p", "frequency_penalty", "repetition_penalty"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -3.0])
async def test_a_sampler_that_makes_no_sense_is_named(stub, failure, field, value):
    spec = wire.GenerationSpec(text="Hi", sampling=wire.SamplingOptions(**{field: value}))
    caught = await failure(stub.Generate(wire.GenerateRequest(spec=spec)))
    assert caught.code is grpc.StatusCode.INVALID_ARGUMENT and caught.fields == [f"sampling.{field}"]


async def test_sixteen_callers_share_one_slot_and_all_finish(stub, server):
    replies = await asyncio.gather(*(stub.Chat(wire.ChatRequest(spec=chat())) for _ in range(16)))
    assert len({reply.messages[0].content[0].text for reply in replies}) == 1
    assert server.metric("narthex_num_requests_waiting", model_name="demo") == 0
    assert server.metric("narthex_generation_tokens_total", model_name="demo") > 0
    assert server.metric("narthex_time_to_first_token_seconds_count", model_name="demo") >= 16
