"""What the text has to look like, in the many spellings that there are."""

from collections.abc import Iterator

import orjson
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields
from narthex_bridge.http.refusal import Refusal

_ANY_OBJECT = b'{"type":"object"}'


def constraint(fields: Fields) -> wire.Constraint | None:
    """From OpenAI's `response_format`, mistral.rs' `grammar`, or vLLM's `structured_outputs` and `guided_*`."""
    found = [*_response_format(fields), *_grammar(fields), *_structured(fields), *_guided(fields)]
    if len(found) > 1:
        name = "response_format" if "response_format" in fields else "grammar"
        raise fields.fault(name, "and another rule for the text are given; at most one can be")
    return found[0] if found else None


def text_format(chosen: Fields) -> wire.Constraint | None:
    """Of an object with a `type`: text, json_object, or json_schema with its `schema` beside it."""
    match chosen.one_of("type", "text", "json_object", "json_schema"):
        case "json_object":
            # llama.cpp lets a schema stand here too
            return wire.Constraint(json_schema=chosen.json("schema") or _ANY_OBJECT)
        case "json_schema":
            schema = chosen.json("schema")
            if not schema:
                raise chosen.fault("schema", "is missing")
            return wire.Constraint(json_schema=schema)
        case "text":
            return None
        case _:
            raise chosen.fault("type", "is missing")


def _response_format(fields: Fields) -> Iterator[wire.Constraint]:
    chosen = fields.object("response_format")
    if chosen is None:
        return
    if chosen.any("type") == "json_schema":
        schema = chosen.object("json_schema")
        if schema is None:
            raise chosen.fault("json_schema", "is missing")
        yield wire.Constraint(json_schema=schema.json("schema") or b"{}")
    elif (rule := text_format(chosen)) is not None:
        yield rule


def _grammar(fields: Fields) -> Iterator[wire.Constraint]:
    if isinstance(fields.any("grammar"), str):
        raise _not_lark(fields, "grammar")
    grammar = fields.object("grammar")
    if grammar is None:
        return
    match grammar.one_of("type", "regex", "json_schema", "lark", "llguidance"):
        case "regex":
            yield wire.Constraint(regex=grammar.needed_text("value"))
        case "lark":
            yield _lark(grammar, "value")
        case "json_schema":
            yield wire.Constraint(json_schema=_schema(grammar, "value"))
        case "llguidance":
            raise grammar.fault("type", "llguidance is not supported here: use lark or json_schema")
        case _:
            raise grammar.fault("type", "is missing")


def _structured(fields: Fields) -> Iterator[wire.Constraint]:
    chosen = fields.object("structured_outputs")
    if chosen is None:
        return
    if "json" in chosen:
        yield wire.Constraint(json_schema=_schema(chosen, "json"))
    if chosen.flag("json_object"):
        yield wire.Constraint(json_schema=_ANY_OBJECT)
    if (regex := chosen.text("regex")) is not None:
        yield wire.Constraint(regex=regex)
    if "choice" in chosen:
        yield wire.Constraint(choice=wire.Choice(options=chosen.texts("choice")))
    if "grammar" in chosen:
        yield _lark(chosen, "grammar")
    if "structural_tag" in chosen:
        raise chosen.fault("structural_tag", "is not supported here")


def _guided(fields: Fields) -> Iterator[wire.Constraint]:
    if "guided_json" in fields:
        yield wire.Constraint(json_schema=_schema(fields, "guided_json"))
    if (regex := fields.text("guided_regex")) is not None:
        yield wire.Constraint(regex=regex)
    if "guided_choice" in fields:
        yield wire.Constraint(choice=wire.Choice(options=fields.texts("guided_choice")))
    if "guided_grammar" in fields:
        yield _lark(fields, "guided_grammar")


def _schema(fields: Fields, name: str) -> bytes:
    """A schema as an object, or as the text of one."""
    value = fields.any(name)
    if not isinstance(value, str):
        return fields.json(name)
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        raise fields.fault(name, "must be a JSON Schema") from None
    return value.encode()


def _lark(fields: Fields, name: str) -> wire.Constraint:
    grammar = fields.needed_text(name)
    if "::=" in grammar:
        raise _not_lark(fields, name)
    return wire.Constraint(lark=grammar)


def _not_lark(fields: Fields, name: str) -> Refusal:
    return fields.fault(
        name, 'must be in Lark\'s notation, in an object {"type": "lark", "value": …}; GBNF is not read'
    )
