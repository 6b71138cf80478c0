"""Tools, found by words."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from narthex.bm25 import Index, weighed

from narthex_server.tools.tool import Tool

NAME, TITLE, DESCRIPTION, PARAMETER, PARAMETER_DESCRIPTION = 3.0, 2.0, 1.0, 1.0, 0.4
"""How much a word counts, by where it stands."""

MOST_PARAMETERS = 200
LONGEST_TEXT = 4096
"""Characters of a description that are indexed."""
DEEPEST = 4


class ToolIndex:
    """BM25 over names, titles, descriptions and parameters."""

    def __init__(self) -> None:
        self._index: Index[str] = Index()
        self._tools: dict[str, Tool] = {}

    def follow(self, tools: Sequence[Tool]) -> None:
        """From now on these are searched; only those that are new or others than before are read."""
        now = {tool.name: tool for tool in tools}
        for gone in self._tools.keys() - now.keys():
            self._index.drop(gone)
        for name, tool in now.items():
            if (known := self._tools.get(name)) is not tool and known != tool:
                self._index.put(name, _document(tool))
        self._tools = now

    def search(self, query: str, limit: int, among: Collection[str]) -> list[Tool]:
        """At most `limit` tools that fit the query, the best first, of those with names `among`."""
        return [self._tools[name] for name in self._index.search(query, limit, among.__contains__)]


def _document(tool: Tool) -> Mapping[str, float]:
    fields = [(tool.name, NAME), (tool.title, TITLE), (tool.description[:LONGEST_TEXT], DESCRIPTION)]
    try:
        schema = json.loads(tool.input_schema or b"{}")
    except (ValueError, RecursionError):
        schema = {}
    for _, (name, about) in zip(range(MOST_PARAMETERS), _parameters(schema, DEEPEST), strict=False):
        fields += [(name, PARAMETER), (about[:LONGEST_TEXT], PARAMETER_DESCRIPTION)]
    return weighed(fields)


def _parameters(schema: Any, depth: int) -> Iterator[tuple[str, str]]:
    """Names and descriptions of an object's properties, and of those within them."""
    properties = schema.get("properties") if isinstance(schema, dict) and depth else None
    for name, about in properties.items() if isinstance(properties, dict) else ():
        description = about.get("description") if isinstance(about, dict) else None
        yield name, description if isinstance(description, str) else ""
        yield from _parameters(about, depth - 1)
        if isinstance(about, dict):
            yield from _parameters(about.get("items"), depth - 1)
