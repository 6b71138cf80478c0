"""`matches = "[a-z]+"`: the whole text fits a regular expression, in time that grows with the text alone.

The engine is Rust's `regex`, which never goes back: no look-around and no references to groups.
"""

from pydantic_core import SchemaError, SchemaValidator, ValidationError, core_schema

from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.verdict import Verdict

SLOW = False


def judge(value: object) -> Judge:
    if not isinstance(value, str):
        raise ValueError("must be a regular expression")
    _compiled(value)  # alone, so that no bracket of it closes ours
    fits = _compiled(rf"\A(?:{value})\z").isinstance_python

    def judged(given: object, directory: str) -> Verdict:
        return fits(given) if isinstance(given, str) else None

    return judged


def _compiled(pattern: str) -> SchemaValidator:
    schema = core_schema.str_schema(pattern=pattern, regex_engine="rust-regex", strict=True)
    try:
        validator = SchemaValidator(schema)
        validator.isinstance_python("")
    except (SchemaError, ValidationError, ValueError) as error:
        raise ValueError(f"is not a regular expression that can be used: {error}") from None
    return validator
