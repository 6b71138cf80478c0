"""What is sent, and what is refused before anything is."""

from dataclasses import replace

import pytest
from narthex_server.embedding.head import Pooling
from narthex_server.engine.request import AdapterUse
from narthex_server.errors import InvalidRequest
from narthex_server.pipelines.embed import EmbedRequest
from narthex_server.pipelines.remote.body import chat_body, completion_body, embedding_body
from narthex_server.pipelines.remote.facts import Facts, read_facts
from narthex_server.pipelines.request import (
    ChatRequest,
    DryOptions,
    GenerateRequest,
    SamplingOptions,
    Scoring,
    StoppingOptions,
    ToolChoice,
)
from narthex_server.text.constraint import Choice, JsonSchema, LarkGrammar, Regex
from narthex_server.text.messages import Message, ToolCall, ToolSpec

VLLM, OTHER = Facts("there", owner="vllm"), Facts("there", owner="somebody")
ASK = ChatRequest("r", (Message("user", "Hi"),))
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
ADD = ToolSpec("add", "Adds.", '{"type": "object"}', strict=True)


def test_a_plain_chat_has_nothing_that_was_not_asked_for():
    assert chat_body(ASK, "big", OTHER) == {
        "model": "there", "messages": [{"role": "user", "content": "Hi"}], **STREAM,
    }  # fmt: skip


def test_every_option_has_its_name():
    sampling = SamplingOptions(0, 5, 0.9, 0.1, 7, 1, -1, 1.2, logit_bias=((3, -1),))
    stopping = StoppingOptions(9, ("x",), ignore_eos=True, min_tokens=2)
    options = {"enable_thinking": False}
    request = replace(ASK, sampling=sampling, stopping=stopping, template_options=options, skip_special=False)
    body = chat_body(request, "big", OTHER)
    assert {name: body[name] for name in body.keys() - {"model", "messages", *STREAM}} == {
        "temperature": 0, "top_k": 5, "top_p": 0.9, "min_p": 0.1, "seed": 7, "frequency_penalty": 1,
        "presence_penalty": -1, "repetition_penalty": 1.2, "repeat_penalty": 1.2, "logit_bias": {"3": -1},
        "max_tokens": 9, "stop": ["x"], "ignore_eos": True, "min_tokens": 2, "chat_template_kwargs": options,
        "skip_special_tokens": False,
    }  # fmt: skip


def test_a_conversation_with_calls_is_written_out():
    said = Message("assistant", "", (ToolCall("1", "add", '{"a": 1}'), ToolCall("", "add", "{}")), reasoning="Hm")
    body = chat_body(replace(ASK, messages=(*ASK.messages, said, Message("tool", "2", tool_call_id="1"))), "big", OTHER)
    _, assistant, tool = body["messages"]
    first, second = assistant["tool_calls"]
    assert first == {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}
    assert second["id"] and (assistant["content"], assistant["reasoning_content"]) == ("", "Hm")
    assert tool == {"role": "tool", "content": "2", "tool_call_id": "1"}


@pytest.mark.parametrize(
    ("choice", "written"),
    [
        (ToolChoice(), None), (ToolChoice("required"), "required"),
        (ToolChoice(name="add"), {"type": "function", "function": {"name": "add"}}),
    ],
)  # fmt: skip
def test_tools_and_choices(choice, written):
    body = chat_body(replace(ASK, tools=(ADD,), tool_choice=choice), "big", OTHER)
    function = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}, "strict": True}
    assert body["tools"] == [{"type": "function", "function": function}] and body.get("tool_choice") == written
    assert "tools" not in chat_body(replace(ASK, tools=(ADD,), tool_choice=ToolChoice("none")), "big", OTHER)


def test_constraints_as_the_engine_knows_them():
    schema = JsonSchema('{"type": "string"}')
    shape = chat_body(replace(ASK, constraint=schema), "big", OTHER)["response_format"]
    assert shape["type"] == "json_schema" and shape["json_schema"]["schema"] == {"type": "string"}
    assert chat_body(replace(ASK, constraint=Regex("a+")), "big", VLLM)["structured_outputs"] == {"regex": "a+"}
    assert chat_body(replace(ASK, constraint=Choice(("a",))), "big", VLLM)["structured_outputs"] == {"choice": ["a"]}
    prompt = GenerateRequest("r", "Hi", constraint=schema)
    assert completion_body(prompt, "big", VLLM)["structured_outputs"] == {"json": {"type": "string"}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"adapters": (AdapterUse("a"),)}, "adapters"),
        ({"max_thoughts": 3}, "reasoning.max_tokens"),
        ({"scoring": Scoring(0)}, "response.logprobs"),
        ({"scoring": Scoring(None, 0)}, "response.prompt_logprobs"),
        ({"wanted_ids": ("response.token_ids",)}, "response.token_ids"),
        ({"sampling": SamplingOptions(dry=DryOptions())}, "sampling.dry"),
        ({"sampling": SamplingOptions(allowed_token_ids=(1,))}, "sampling.allowed_token_ids"),
        ({"stopping": StoppingOptions(stop_token_ids=frozenset({1}))}, "stopping.stop_token_ids"),
        ({"stopping": StoppingOptions(include_stop=True)}, "stopping.include_stop"),
        ({"constraint": Regex("a")}, "constraint.regex"),
        ({"constraint": LarkGrammar("start: X")}, "constraint.lark"),
    ],
)
def test_what_cannot_be_asked_is_named(change, field):
    with pytest.raises(InvalidRequest, match="'big' is remote") as caught:
        chat_body(replace(ASK, **change), "big", OTHER)
    assert [violation.field for violation in caught.value.violations] == [field]
    assert caught.value.reason == "REMOTE_MODEL"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sampling": SamplingOptions(temperature=-1)}, "sampling.temperature"),
        ({"stopping": StoppingOptions(max_tokens=0)}, "stopping.max_tokens"),
        ({"messages": ()}, "messages"),
        ({"tool_choice": ToolChoice("required")}, "tool_choice"),
        ({"constraint": JsonSchema("[")}, "constraint.json_schema"),
    ],
)
def test_what_no_model_could_do_is_refused_as_ever(change, field):
    with pytest.raises(InvalidRequest) as caught:
        chat_body(replace(ASK, **change), "big", OTHER)
    assert [violation.field for violation in caught.value.violations] == [field]


def test_token_ids_are_no_prompt():
    with pytest.raises(InvalidRequest, match="token_ids"):
        completion_body(GenerateRequest("r", (1, 2)), "big", OTHER)
    assert completion_body(GenerateRequest("r", "Hi"), "big", OTHER) == {"model": "there", "prompt": "Hi", **STREAM}


def test_embeddings():
    body = embedding_body(EmbedRequest(("a", "b"), instruction="q: "), "big", OTHER)
    assert body == {"model": "there", "input": ["q: a", "q: b"], "encoding_format": "float"}
    for change, field in (
        ({"inputs": ()}, "inputs"), ({"inputs": ("a", "")}, "inputs[1]"), ({"inputs": ((1,),)}, "inputs.token_ids"),
        ({"pooling": Pooling.LAST}, "pooling"), ({"truncate": True}, "truncate"), ({"normalize": False}, "normalize"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest) as caught:
            embedding_body(replace(EmbedRequest(("a",)), **change), "big", OTHER)
        assert [violation.field for violation in caught.value.violations] == [field]


def test_facts_of_different_engines():
    vllm = {"data": [{"id": "a", "owned_by": "vllm", "max_model_len": 99}, {"id": "b"}]}
    assert read_facts(vllm, "") == Facts("a", 99, owner="vllm")
    assert read_facts(vllm, "b") == Facts("b") and read_facts(vllm, "c") == Facts("c")
    llama = {"data": [{"id": "a", "meta": {"n_vocab": 5, "n_ctx_train": 7, "n_params": 2**40}, "owned_by": "llamacpp"}]}
    assert read_facts(llama, "") == Facts("a", 7, 5, 2**40, "llamacpp")
    for odd in (None, [], {}, {"data": 3}, {"data": [3, {"id": 3}, {"id": ""}]}, {"data": [{"max_model_len": "x"}]}):
        assert read_facts(odd, "") == Facts()
