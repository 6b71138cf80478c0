"""Where chat templates run: no way to Python, and limits on work and on the size of what they make.

Templates come with model files, so a broken or hostile one must cost little: a second, and some megabytes.
"""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any

from jinja2 import nodes, pass_context, pass_eval_context
from jinja2.exceptions import SecurityError
from jinja2.filters import do_format, do_indent, do_join, do_replace, do_sum
from jinja2.nodes import EvalContext
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

LONGEST = 1 << 24
"""Characters of a text, or of all texts in a list or mapping, however nested."""
_MOST_ELEMENTS = 1 << 18
_MOST_BITS = 1 << 16
_SECONDS = 1.0
_LARGEST_ARGUMENT = 100_000
_WORK = " work"  # a name that no template can write
_WIDE_FIELD = re.compile(r"\d{5}|:[^}]*\{|%[^a-zA-Z%]*\*")
_FIELD, _WIDTH = re.compile(r"[%{]"), re.compile(r"\d+")
_PADDING = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs"})
_SPLITTING = frozenset({"split", "rsplit", "splitlines"})
_UNBOUNDED_METHODS = frozenset({"encode", "translate", "maketrans"})
_UNBOUNDED_FILTERS = ("pprint", "urlize", "wordwrap", "xmlattr")
"""What may grow a text without limit and no chat template needs."""


class Sandbox(ImmutableSandboxedEnvironment):
    """Counts the turns of loops and the calls of one rendering, and weighs what grows; errors: SecurityError.

    Rendering needs the variables of `limits()` beside its own.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **options: Any) -> None:
        super().__init__(finalize=_weighed, **options)
        del self.globals["lipsum"]
        self.filters |= {
            "turns": _turns, "weighed": _weighed, "text_of": _text_of,
            "format": _format, "indent": _indent, "join": _join, "replace": _replace, "sum": _sum,
        }  # fmt: skip
        for name in ("batch", "center", "slice", "truncate"):
            self.filters[name] = _with_small_arguments(self.filters[name])
        for name in _UNBOUNDED_FILTERS:
            del self.filters[name]

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Also hide methods of numbers and bytes, and those of texts that make something of unknown size."""
        if isinstance(obj, int | float | bytes) or (isinstance(obj, str) and attr in _UNBOUNDED_METHODS):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Watched().visit(super()._parse(source, name, filename))
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        work = _work_of(context)
        match operator, left, right:
            case "+", str() | list() | tuple(), str() | list() | tuple():
                (work.weigh(left) + work.weigh(right)).check()
            case "*", int(), int():
                _check_bits(left.bit_length() + right.bit_length())
            case "*", (str() | list() | tuple()) as value, int(times):
                (work.weigh(value) * times).check()
            case "*", int(times), (str() | list() | tuple()) as value:
                (work.weigh(value) * times).check()
            case "**", int(), int():
                _check_bits(left.bit_length() * right)
            case "%", str(), _:
                _check_fields(work, left, right)
        return super().call_binop(context, operator, left, right)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        work = _work_of(context)
        work.step()
        method = getattr(obj, "__wrapped__", obj)
        if isinstance(owner := getattr(method, "__self__", None), str):
            _check_text_method(work, owner, method.__name__, args, kwargs)
        result = super().call(context, obj, *args, **kwargs)
        work.weigh(result).check()
        return result

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """Join the pieces of an output while they fit."""
        kept, size = [], 0
        for piece in pieces:
            size += len(piece)
            _check_length(size)
            kept.append(piece)
        return "".join(kept)


def limits() -> Mapping[str, object]:
    """The variables that one rendering is counted by."""
    return {_WORK: _Work()}


@dataclass(frozen=True, slots=True)
class _Weight:
    """Elements and characters of a value, counted as often as they occur in it."""

    elements: int
    characters: int

    def __add__(self, other: "_Weight") -> "_Weight":
        return _Weight(self.elements + other.elements, self.characters + other.characters)

    def __mul__(self, times: int) -> "_Weight":
        return _Weight(self.elements * times, self.characters * times)

    def check(self) -> None:
        if self.elements > _MOST_ELEMENTS:
            raise SecurityError(f"it makes something of more than {_MOST_ELEMENTS} elements")
        _check_length(self.characters)


class _Work:
    """The processor time of a rendering's thread; a step is a turn of a loop, a call, or an element looked at."""

    def __init__(self) -> None:
        self._steps = 0
        self._end = time.thread_time() + _SECONDS

    def step(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > 64:
            self._steps = 0
            if time.thread_time() > self._end:
                raise SecurityError(f"it takes more than {_SECONDS:g} s")

    def weigh(self, value: Any) -> _Weight:
        """Look at a value and what it holds, up to the first element too many."""
        if isinstance(value, str):
            return _Weight(1, len(value))
        elements, characters, left = 0, 0, [value]
        while left and elements <= _MOST_ELEMENTS:
            current = left.pop()
            elements += 1
            if isinstance(current, str):
                characters += len(current)
            elif isinstance(current, int):
                characters += current.bit_length() // 3
            elif isinstance(current, list | tuple):
                left.extend(current)
            elif isinstance(current, dict):
                left.extend(current)
                left.extend(current.values())
        self.step(elements)
        return _Weight(elements, characters)


class _Turns:
    """Counts the turns of a loop over any values."""

    def __init__(self, values: Any, work: _Work) -> None:
        self._values = values
        self._work = work

    def __iter__(self) -> Iterator[Any]:
        for value in self._values:
            self._work.step()
            yield value

    def __len__(self) -> int:
        return len(self._values)


class _Watched(NodeTransformer):
    """Puts the counting and weighing filters around loops, literals and joined texts."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "turns")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "text_of")

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "weighed")

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "weighed")

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _filtered(node, "weighed") if node.ctx == "load" else node


def _filtered(node: Any, name: str) -> nodes.Expr:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _work_of(context: Context) -> _Work:
    work: _Work = context.parent[_WORK]
    return work


@pass_context
def _turns(context: Context, values: Any) -> _Turns:
    return _Turns(values, _work_of(context))


@pass_context
def _weighed(context: Context, value: Any) -> Any:
    _work_of(context).weigh(value).check()
    return value


@pass_context
def _text_of(context: Context, values: list[Any]) -> str:
    work = _work_of(context)
    work.weigh(values).check()
    return Sandbox.concat(str(value) for value in values)


def _check_length(characters: int) -> None:
    if characters > LONGEST:
        raise SecurityError(f"it makes a text of more than {LONGEST} characters")


def _check_bits(bits: int) -> None:
    if bits > _MOST_BITS:
        raise SecurityError(f"it makes a number of more than {_MOST_BITS} bits")


def _check_fields(work: _Work, layout: str, values: Any) -> None:
    """Refuse a layout whose fields, were each filled with all the values, make too much."""
    if _WIDE_FIELD.search(layout):
        raise SecurityError("it formats with a width that is not small and fixed")
    _check_length(sum(map(int, _WIDTH.findall(layout))))
    (work.weigh(values) * len(_FIELD.findall(layout))).check()


def _check_arguments(arguments: Iterable[Any]) -> None:
    if any(isinstance(argument, int) and argument > _LARGEST_ARGUMENT for argument in arguments):
        raise SecurityError(f"it gives a filter or method a number above {_LARGEST_ARGUMENT}")


def _check_text_method(work: _Work, text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if name in _PADDING:
        _check_arguments((*args, *kwargs.values()))
        if name == "expandtabs":
            _check_length(text.count("\t") * max((*args, *kwargs.values(), 8)))
    elif name in _SPLITTING:
        between = args[0] if args and isinstance(args[0], str) else ""
        if (text.count(between) if between else len(text) // 2) > 4 * _MOST_ELEMENTS:
            raise SecurityError(f"it makes something of more than {_MOST_ELEMENTS} elements")
    elif name in ("format", "format_map"):
        _check_fields(work, text, [*args, *kwargs.values()])
    elif name == "replace" and len(args) > 1:
        _check_replacing(text, str(args[0]), str(args[1]))
    elif name == "join" and args:
        _check_joining(work, list(args[0]), text)


def _check_replacing(text: str, old: str, new: str) -> None:
    _check_length(len(text) + (text.count(old) + 1) * len(new))


def _check_joining(work: _Work, values: list[Any], between: str) -> None:
    (work.weigh(values) + _Weight(0, len(between) * len(values))).check()


def _with_small_arguments(known: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(known)
    def bounded(*args: Any, **kwargs: Any) -> Any:
        _check_arguments((*args, *kwargs.values()))
        return known(*args, **kwargs)

    return bounded


@pass_context
def _format(context: Context, layout: Any, *args: Any, **kwargs: Any) -> str:
    _check_fields(_work_of(context), str(layout), [*args, *kwargs.values()])
    return do_format(str(layout), *args, **kwargs)


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    lines, margin = str(text).count("\n") + 1, width if isinstance(width, int) else len(width)
    _check_length(len(str(text)) + lines * margin)
    return do_indent(str(text), width, first, blank)


@pass_eval_context
def _sum(context: EvalContext, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    if not isinstance(start, int | float):
        raise SecurityError("it sums what are no numbers")
    return do_sum(context.environment, values, attribute, start)


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    values = list(values)
    _check_joining(_work_of(context), values, str(d))
    return str(do_join(context.eval_ctx, values, str(d), attribute))


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int | None = None) -> str:
    _check_replacing(str(text), str(old), str(new))
    return do_replace(context.eval_ctx, str(text), str(old), str(new), count)
