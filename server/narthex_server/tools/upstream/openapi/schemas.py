"""Schemas of a document as schemas of what is sent: each stands alone, in JSON Schema 2020-12."""

from collections.abc import Mapping
from typing import Any

from narthex_server.tools.upstream.openapi.document import Document

MOST_DEFINITIONS = 2000

_NAMED = ("patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTED = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    "items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties", "contentSchema",
)  # fmt: skip
_DROPPED = ("xml", "externalDocs", "discriminator", "example")
"""OpenAPI's own keywords, which say nothing about what fits."""


class Schemas:
    """The schemas of one tool: what they refer to comes along once, also where it refers to itself."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._names: dict[str, str] = {}
        self._definitions: dict[str, Any] = {}

    @property
    def definitions(self) -> Mapping[str, Any]:
        """For `$defs` of the whole."""
        return self._definitions

    def alone(self, schema: Any) -> Any:
        """The schema, its references now to `$defs`; raises Unavailable for references that lead nowhere."""
        if not isinstance(schema, Mapping):
            return schema
        if isinstance(ref := schema.get("$ref"), str):
            beside = {} if self._document.is_3_0 else {k: v for k, v in schema.items() if k != "$ref"}
            return {"$ref": f"#/$defs/{self._defined(ref)}", **self._converted(beside)}
        return self._converted(schema)

    def _converted(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {}
        unsent = _read_only(schema.get("properties"))
        for key, value in schema.items():
            if key in _DROPPED or key.startswith("x-"):
                continue
            if key == "required" and isinstance(value, list):
                made[key] = [name for name in value if not isinstance(name, str) or name not in unsent]
            elif key == "properties" and isinstance(value, Mapping):
                made[key] = {name: self.alone(one) for name, one in value.items() if name not in unsent}
            elif key in _NAMED and isinstance(value, Mapping):
                made[key] = {name: self.alone(one) for name, one in value.items()}
            elif key in _LISTED and isinstance(value, list):
                made[key] = [self.alone(one) for one in value]
            elif key in _SINGLE:
                made[key] = self.alone(value)
            else:
                made[key] = value
        return _modern(made) if self._document.is_3_0 else made

    def _defined(self, ref: str) -> str:
        if (known := self._names.get(ref)) is not None:
            return known
        if len(self._names) >= MOST_DEFINITIONS:
            return self._anything()
        name = plain = "".join(c if c.isalnum() or c in "_-." else "_" for c in ref.rpartition("/")[2]) or "schema"
        number = 1
        while name in self._definitions:
            number += 1
            name = f"{plain}_{number}"
        self._names[ref] = name
        self._definitions[name] = {}  # so that one which refers to itself finds itself
        self._definitions[name] = self.alone(self._document.at(ref))
        return name

    def _anything(self) -> str:
        self._definitions.setdefault("anything", {})
        return "anything"


def _read_only(properties: Any) -> frozenset[str]:
    """The properties that are in answers alone, even if they are `required`."""
    if not isinstance(properties, Mapping):
        return frozenset()
    return frozenset(
        name for name, one in properties.items() if isinstance(one, Mapping) and one.get("readOnly") is True
    )


def _modern(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of OpenAPI 3.0, which said some things in its own way."""
    if schema.pop("nullable", False) is True:
        match schema.get("type"):
            case str() as kind:
                schema["type"] = [kind, "null"]
                if isinstance(listed := schema.get("enum"), list) and None not in listed:
                    schema["enum"] = [*listed, None]
            case _ if "allOf" in schema or "anyOf" in schema or "oneOf" in schema:
                schema = {"anyOf": [schema, {"type": "null"}]}
    for exclusive, plain in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        match schema.get(exclusive):
            case True if plain in schema:
                schema[exclusive] = schema.pop(plain)
            case bool():
                del schema[exclusive]
    return schema
