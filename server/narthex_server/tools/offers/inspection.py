"""What servers offer as it may be shown: looked through for hidden characters, once for each list."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, TypeVar
from weakref import WeakKeyDictionary

from narthex_server.tools.hidden import HiddenInJson, json_without_hidden, without_hidden
from narthex_server.tools.once import Once
from narthex_server.tools.presentation import Presentation, Scan
from narthex_server.tools.prompt import Prompt, PromptArgument
from narthex_server.tools.resource import Resource, ResourceTemplate
from narthex_server.tools.tool import Tool

_TEXTS = frozenset(("title", "description", "mime_type"))
_JSON = frozenset(("input_schema", "output_schema", "annotations", "icons", "meta"))

_Item = TypeVar("_Item", Tool, Prompt, Resource, ResourceTemplate)

_log = logging.getLogger(__name__)


class _Presented(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def presentation(self) -> Presentation: ...


@dataclass(frozen=True, slots=True)
class _Inspected:
    given: tuple[Any, ...]  # held, so that it can be told from another by identity
    presentation: Presentation
    shown: tuple[Any, ...]
    suspect: int


class Inspection:
    """Looks through tools, prompts, resources and templates; what is found is logged once for each of them."""

    def __init__(self, default: Scan = "strip") -> None:
        self._default = default
        self._seen: WeakKeyDictionary[_Presented, dict[str, _Inspected]] = WeakKeyDictionary()
        self._told = Once()

    @property
    def suspects(self) -> Mapping[tuple[str, str], int]:
        """How many things had hidden characters when last listed, by server and kind, where any had."""
        found: dict[tuple[str, str], int] = {}
        for server, kinds in self._seen.items():
            for kind, seen in kinds.items():
                if seen.suspect:
                    key = (server.name, kind)
                    found[key] = max(seen.suspect, found.get(key, 0))
        return found

    def tools(self, server: _Presented, tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
        """Those that the server's presentation offers, described as it says."""
        return self._inspected("tool", server, tools, _as_presented)

    def prompts(self, server: _Presented, prompts: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
        return self._inspected("prompt", server, prompts)

    def resources(self, server: _Presented, resources: tuple[Resource, ...]) -> tuple[Resource, ...]:
        return self._inspected("resource", server, resources)

    def templates(self, server: _Presented, templates: tuple[ResourceTemplate, ...]) -> tuple[ResourceTemplate, ...]:
        return self._inspected("template", server, templates)

    def _inspected(
        self,
        kind: str,
        server: _Presented,
        given: tuple[_Item, ...],
        presented: Callable[[Iterable[_Item], Presentation], Iterable[_Item]] = lambda items, presentation: items,
    ) -> tuple[_Item, ...]:
        presentation, kinds = server.presentation, self._seen.setdefault(server, {})
        seen = kinds.get(kind)
        if seen is None or seen.given is not given or seen.presentation != presentation:
            seen = kinds[kind] = self._look(kind, server, given, tuple(presented(given, presentation)))
        return seen.shown

    def _look(self, kind: str, server: _Presented, given: tuple[_Item, ...], items: tuple[_Item, ...]) -> _Inspected:
        mode = server.presentation.scan or self._default
        shown: list[_Item] = []
        suspect = 0
        for item in items if mode != "off" else ():
            clean = _cleaned(item)
            if clean == item:
                shown.append(item)
                continue
            suspect += 1
            left_out = clean is None or mode == "refuse"
            if clean is not None and not left_out:
                shown.append(clean)
            if self._told.first((server.name, kind, item.name)):
                what = "it is left out" if left_out else "they are removed"
                _log.warning(
                    "upstream %s describes %s %s with hidden characters; %s",
                    server.name, kind, ascii(item.name[:200]), what,
                )  # fmt: skip
        return _Inspected(given, server.presentation, items if mode == "off" else tuple(shown), suspect)


def _as_presented(tools: Iterable[Tool], presentation: Presentation) -> Iterable[Tool]:
    for tool in tools:
        if presentation.offers(tool.name):
            description = presentation.describe.get(tool.name)
            yield tool if description is None else replace(tool, description=description)


def _cleaned(item: _Item) -> _Item | None:
    """The item without hidden characters; None where they are in what names it, or it cannot be looked through."""
    uri = getattr(item, "uri", "") or getattr(item, "uri_template", "")
    if without_hidden(uri) != uri:
        return None
    clean: dict[str, Any] = {}
    try:
        for field in fields(item):
            value = getattr(item, field.name)
            if field.name in _TEXTS:
                clean[field.name] = without_hidden(value)
            elif field.name in _JSON:
                clean[field.name] = json_without_hidden(value)
            elif field.name == "arguments":
                clean[field.name] = tuple(map(_cleaned_argument, value))
            elif field.name == "name" and uri:  # a label; tools and prompts are exposed under names of their own
                clean[field.name] = without_hidden(value)
    except HiddenInJson:
        return None
    return item if all(getattr(item, key) == value for key, value in clean.items()) else replace(item, **clean)


def _cleaned_argument(argument: PromptArgument) -> PromptArgument:
    return replace(
        argument,
        name=without_hidden(argument.name),
        title=without_hidden(argument.title),
        description=without_hidden(argument.description),
    )
