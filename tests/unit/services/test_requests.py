"""Wire to domain: what is unset stays unset, what makes no sense is named."""

import pytest
from narthex.v1 import generation_pb2 as wire
from narthex_server.engine.request import Sampling
from narthex_server.errors import InvalidRequest
from narthex_server.pipelines.request import DryOptions, Scoring
from narthex_server.services import replies, requests
from narthex_server.text.constraint import Choice, JsonSchema, LarkGrammar, Regex
from narthex_server.text.messages import Message


def text(role: wire.Role.ValueType, *parts: str) -> wire.ChatMessage:
    return wire.ChatMessage(role=role, content=[wire.ContentPart(text=part) for part in parts])


def test_unset_samplers_are_left_to_the_model():
    options = requests.sampling_from(wire.SamplingOptions(temperature=0, seed=2**64 - 1))
    assert (options.temperature, options.seed) == (0, 2**64 - 1)
    assert (options.top_k, options.top_p, options.min_p) == (None, None, None)


def test_every_sampling_option_has_its_place():
    dry = wire.DryOptions(multiplier=0, base=2, allowed_length=0, window=9, sequence_breakers=["x"])
    options = requests.sampling_from(
        wire.SamplingOptions(
            frequency_penalty=0.5, presence_penalty=0, repetition_penalty=1.5, dry=dry, logit_bias={7: 1, 2: -3},
            allowed_token_ids=[4, 1],
        )
    )  # fmt: skip
    assert (options.frequency_penalty, options.presence_penalty, options.repetition_penalty) == (0.5, 0, 1.5)
    assert options.dry == DryOptions(0, 2, 0, 9, ("x",)) and requests.sampling_from(wire.SamplingOptions()).dry is None
    assert options.logit_bias == ((2, -3), (7, 1)) and options.allowed_token_ids == (4, 1)
    assert requests.sampling_from(wire.SamplingOptions(dry=wire.DryOptions())).dry == DryOptions()


def test_what_comes_back_is_asked_for():
    response = wire.ResponseOptions(logprobs=0, prompt_logprobs=3, echo=True)
    request = requests.generate_request(
        wire.GenerationSpec(text="x", response=response, stopping=wire.StoppingOptions(min_tokens=3)), "r"
    )
    assert (request.scoring, request.echo, request.stopping.min_tokens) == (Scoring(0, 3), True, 3)
    assert requests.generate_request(wire.GenerationSpec(text="x"), "r").scoring == Scoring()


def test_fields_that_ask_for_token_ids_are_remembered():
    response = wire.ResponseOptions(token_ids=True, prompt_token_ids=True)
    asked = requests.generate_request(wire.GenerationSpec(text="x", response=response), "r").wanted_ids
    assert asked == ("response.token_ids", "response.prompt_token_ids")
    assert requests.generate_request(wire.GenerationSpec(text="x"), "r").wanted_ids == ()


@pytest.mark.parametrize("count", [0, 17, 2**32 - 1])
def test_too_few_and_too_many_completions_are_refused(count):
    with pytest.raises(InvalidRequest, match="n must be between 1 and 16"):
        requests.completions(wire.GenerationSpec(text="x", n=count))


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (wire.ChatSpec(n=2, tool_execution=wire.TOOL_EXECUTION_SERVER), "n"),
        (wire.ChatSpec(response=wire.ResponseOptions(echo=True)), "response.echo"),
    ],
)
def test_what_makes_no_sense_for_a_chat_is_refused(spec, field):
    spec.messages.append(text(wire.ROLE_USER, "x"))
    with pytest.raises(InvalidRequest) as caught:
        requests.chat_request(spec, "r")
    assert [violation.field for violation in caught.value.violations] == [field]


def test_adapters_count_once_unless_they_say_otherwise():
    uses = [wire.AdapterUse(name="a"), wire.AdapterUse(name="b", scale=-0.5), wire.AdapterUse(name="c", scale=0)]
    found = requests.generate_request(wire.GenerationSpec(text="x", adapters=uses), "r").adapters
    assert [(use.name, use.scale) for use in found] == [("a", 1.0), ("b", -0.5), ("c", 0.0)]


@pytest.mark.parametrize(
    ("use", "field"),
    [
        (wire.AdapterUse(), "name"),
        (wire.AdapterUse(name="a", scale=float("inf")), "scale"),
        (wire.AdapterUse(name="a", scale=float("nan")), "scale"),
        (wire.AdapterUse(name="a", scale=-101), "scale"),
    ],
)
def test_an_adapter_without_name_or_with_an_absurd_scale_is_refused(use, field):
    spec = wire.ChatSpec(messages=[wire.ChatMessage(role=wire.ROLE_USER)], adapters=[wire.AdapterUse(name="b"), use])
    with pytest.raises(InvalidRequest, match=rf"adapters\[1\]\.{field}"):
        requests.chat_request(spec, "r")


@pytest.mark.parametrize("spec", [wire.GenerationSpec(), wire.GenerationSpec(text="")])
def test_a_prompt_must_be_there(spec):
    with pytest.raises(InvalidRequest, match="prompt"):
        requests.generate_request(spec, "r")


def test_messages_keep_their_order_parts_and_calls():
    assistant = text(wire.ROLE_ASSISTANT, "a", "b")
    assistant.tool_calls.add(id="1", name="t", arguments=b'{"n": 123456789012345678901234567890}')
    tool = wire.ChatMessage(role=wire.ROLE_TOOL, tool_call_id="1", content=[wire.ContentPart(text="r")])
    system, said, answer = requests.messages_from([text(wire.ROLE_SYSTEM, "s"), assistant, tool])
    assert system == Message("system", "s")
    assert said.content == "ab" and said.tool_calls[0].arguments == '{"n": 123456789012345678901234567890}'
    assert answer == Message("tool", "r", tool_call_id="1")
    assert replies.message_to_wire(said).tool_calls[0] == assistant.tool_calls[0]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (wire.ChatMessage(), "messages[0].role"),
        (wire.ChatMessage(role=wire.ROLE_USER, content=[wire.ContentPart()]), "messages[0].content[0]"),
        (
            wire.ChatMessage(role=wire.ROLE_ASSISTANT, tool_calls=[wire.ToolCall(arguments=b"[")]),
            "messages[0].tool_calls[0].arguments",
        ),
    ],
)
def test_a_message_at_fault_is_named(message, field):
    with pytest.raises(InvalidRequest) as caught:
        requests.messages_from([message])
    assert caught.value.violations[0].field == field


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (wire.Constraint(json_schema=b'{"type": "string"}'), JsonSchema('{"type": "string"}')),
        (wire.Constraint(regex="a+"), Regex("a+")),
        (wire.Constraint(lark='start: "a"'), LarkGrammar('start: "a"')),
        (wire.Constraint(choice=wire.Choice(options=["a", "b"])), Choice(("a", "b"))),
        (wire.Constraint(), None),
    ],
)
def test_a_constraint_arrives_as_it_is(rule, expected):
    assert requests.generate_request(wire.GenerationSpec(text="x", constraint=rule), "r").constraint == expected


DEEP = b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (wire.ChatSpec(template_arguments=DEEP), "template_arguments"),
        (wire.ChatSpec(tools=[wire.ToolSpec(name="t", parameters=DEEP)]), "tools[0].parameters"),
        (
            wire.ChatSpec(
                messages=[wire.ChatMessage(role=wire.ROLE_ASSISTANT, tool_calls=[wire.ToolCall(arguments=DEEP)])]
            ),
            "messages[1].tool_calls[0].arguments",
        ),
    ],
)
def test_json_without_bottom_is_refused_by_field(spec, field):
    whole = wire.ChatSpec(messages=[text(wire.ROLE_USER, "x")])
    whole.MergeFrom(spec)
    with pytest.raises(InvalidRequest) as caught:
        requests.chat_request(whole, "r")
    assert [violation.field for violation in caught.value.violations] == [field]


def test_of_a_million_biases_at_fault_a_few_are_named():
    assert 8 <= len(Sampling(logit_bias=tuple((token, 1000.0) for token in range(1_000_000))).validate()) < 100


def test_a_schema_that_is_no_utf8_is_refused():
    with pytest.raises(InvalidRequest, match="json_schema"):
        requests.constraint_from(wire.Constraint(json_schema=b"\xff"))


def test_strict_tools_and_limits_of_thinking_arrive():
    spec = wire.ChatSpec(messages=[text(wire.ROLE_USER, "x")], tools=[wire.ToolSpec(name="t", strict=True)])
    assert requests.chat_request(spec, "r").max_thoughts is None
    spec.reasoning.max_tokens = 0
    spec.reasoning.enabled = True
    request = requests.chat_request(spec, "r")
    assert (request.max_thoughts, request.tools[0].strict) == (0, True)
    assert request.template_options == {"enable_thinking": True}
