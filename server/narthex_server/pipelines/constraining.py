"""From what a request asks of a text to the grammar that the engine follows."""

import asyncio
from collections.abc import Sequence

from narthex_server.engine.grammar import Grammar
from narthex_server.errors import InvalidRequest, Violation
from narthex_server.pipelines.models import TextModel
from narthex_server.pipelines.request import ChatRequest, StoppingOptions, refuse
from narthex_server.pipelines.tokens import ChatPrompt
from narthex_server.text.calls.rule import ToolRule
from narthex_server.text.constraint import Constraint, read_schema
from narthex_server.text.grammar import Grammars, Rules, TokenGrammar
from narthex_server.text.messages import ToolSpec
from narthex_server.text.thought_budget import ThoughtBudget

_ANY_ARGUMENTS = {"type": "object"}


async def text_grammar(model: TextModel, constraint: Constraint, stopping: StoppingOptions) -> Grammar:
    """The grammar of a text that is all constrained. Errors: InvalidRequest that names the field at fault."""
    _check_stopping(stopping)
    return await asyncio.to_thread(_constrained, model.grammars, constraint)


async def turn_grammar(model: TextModel, request: ChatRequest, prompt: ChatPrompt) -> Grammar | None:
    """The grammar of a turn: thoughts, then calls, text or both, as the request has it; None where all is allowed.

    Errors: InvalidRequest that names the field at fault.
    """
    strict = prompt.dialect is not None and any(tool.strict for tool in request.tools)
    grammar: Grammar | None = None
    if request.constraint is not None or (prompt.dialect and request.tool_choice.forced) or strict:
        _check_stopping(request.stopping)
        grammar = await asyncio.to_thread(_turn, model.grammars, request, prompt)
    thinks = prompt.reasoning is not None and not prompt.reasoning.over(prompt.text)
    if request.max_thoughts is not None and prompt.reasoning is not None and thinks:
        inside = prompt.reasoning.begun(prompt.text)
        grammar = ThoughtBudget(model.text.tokenizer, prompt.reasoning, request.max_thoughts, inside, grammar)
    return grammar


def _constrained(grammars: Grammars, constraint: Constraint) -> TokenGrammar:
    return grammars.compile(Rules(constraint.lark()), f"constraint.{constraint.field}")


def _turn(grammars: Grammars, request: ChatRequest, prompt: ChatPrompt) -> Grammar:
    answer = None
    if request.constraint is not None:
        grammar = _constrained(grammars, request.constraint)  # alone first, so that errors are its own
        if prompt.reasoning is None and prompt.dialect is None:
            return grammar
        answer = request.constraint.lark()
    start = prompt.reasoning.lark(prompt.text, grammars) if prompt.reasoning else "start: said"
    rules, field = [start], "constraint"
    if prompt.dialect is None:
        rules.append("said: @answer")
    else:
        field = "tools"
        forced = request.tool_choice.forced
        said = "calls" if forced else "turn" if answer is None else "calls | @answer"
        answer = None if forced else answer
        rules += [f"said: {said}", prompt.dialect.lark(_rules(grammars, request), grammars)]
    return grammars.compile(Rules("\n".join(rules), answer), field)


def _rules(grammars: Grammars, request: ChatRequest) -> Sequence[ToolRule]:
    """The tools that may be called; where calls are forced, also those that are not strict get fitting arguments."""
    choice = request.tool_choice
    found = []
    for index, tool in enumerate(request.tools):
        if choice.name and tool.name != choice.name:
            continue
        found.append(_rule(grammars, tool, f"tools[{index}].parameters", choice.forced))
    return found


def _rule(grammars: Grammars, tool: ToolSpec, field: str, forced: bool) -> ToolRule:
    if not (tool.strict or forced):
        return ToolRule(tool.name, _ANY_ARGUMENTS)
    rule = ToolRule(tool.name, read_schema(tool.parameters or "{}", field), tool.strict)
    try:
        grammars.compile(Rules(f"start: {rule.arguments()}"), field)
    except InvalidRequest:
        if tool.strict:
            raise
        return ToolRule(tool.name, _ANY_ARGUMENTS)
    return rule


def _check_stopping(stopping: StoppingOptions) -> None:
    if stopping.ignore_eos:
        what = "cannot go with a constraint, a forced call or strict tools: nothing could end the text"
        refuse((Violation("stopping.ignore_eos", what),))
