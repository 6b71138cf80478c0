import json

import pytest
from narthex_server.errors import InvalidToolArguments
from narthex_server.tools.arguments import ArgumentSchema, parse_arguments
from narthex_server.tools.objects import MAX_BYTES, MAX_DEPTH


def violations(schema: dict, arguments: dict) -> list[tuple[str, str]]:
    with pytest.raises(InvalidToolArguments) as caught:
        ArgumentSchema(json.dumps(schema).encode(), "t").check(arguments)
    return [(v.field, v.description) for v in caught.value.violations]


def test_empty_arguments_are_an_empty_object():
    assert parse_arguments(b"") == parse_arguments(b" {} ") == {}


def test_integers_stay_exact():
    assert parse_arguments(b'{"n":123456789012345678901234567890}') == {"n": 123456789012345678901234567890}


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"[1]", "must be a JSON object, not array"),
        (b"null", "must be a JSON object, not null"),
        (b'"{}"', "must be a JSON object, not string"),
        (b'{"a":', "are not JSON"),
        (b"\xff", "are not JSON"),
        (b'{"a":NaN}', "NaN is not JSON"),
        (b'{"a":"\\ud800"}', "lone surrogate"),
        (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested deeper"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper"),
        (b'"' + b"x" * MAX_BYTES + b'"', "at most"),
    ],
)
def test_what_is_no_sane_object_is_refused(raw, why):
    with pytest.raises(InvalidToolArguments, match=why):
        parse_arguments(raw)


def test_wide_arguments_are_not_deep():
    assert len(parse_arguments(json.dumps({"a": [[]] * 1000}).encode())["a"]) == 1000


def test_each_field_at_fault_is_named_with_the_reason():
    schema = {
        "type": "object",
        "properties": {
            "path": {"type": "string"},
            "mode": {"enum": ["r", "w"]},
            "lines": {"type": "array", "items": {"type": "object", "properties": {"n": {"minimum": 1}}}},
        },
        "required": ["path", "mode"],
        "additionalProperties": False,
    }
    assert violations(schema, {}) == [("path", "is required"), ("mode", "is required")]
    assert violations(schema, {"path": None, "mode": "r"}) == [("path", "must be string, not null")]
    assert violations(schema, {"path": "", "mode": "x"}) == [("mode", "'x' is not one of ['r', 'w']")]
    assert violations(schema, {"path": "", "mode": "r", "lines": [{}, {"n": 0}]})[0][0] == "lines[1].n"
    assert violations(schema, {"path": "", "mode": "r", "pth": 1}) == [
        ("pth", "is not known; known are: path, mode, lines")
    ]


def test_many_faults_and_huge_values_are_told_briefly():
    found = violations({"items": {}, "additionalProperties": {"type": "string"}}, {str(n): 0 for n in range(100)})
    assert len(found) == 16
    ((_, reason),) = violations({"properties": {"a": {"maxLength": 3}}}, {"a": "x" * 100_000})
    assert len(reason) < 400


def test_the_draft_is_the_schemas_own():
    draft4 = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "properties": {"n": {"maximum": 3, "exclusiveMaximum": True}},
    }
    assert violations(draft4, {"n": 3})[0][0] == "n"


@pytest.mark.parametrize("schema", [b'{"type":"nonsense"}', b"not json", b"[]", b'{"$ref":"http://localhost:1/x"}'])
def test_a_broken_schema_judges_nothing(schema):
    ArgumentSchema(schema, "t").check({"a": 1})
