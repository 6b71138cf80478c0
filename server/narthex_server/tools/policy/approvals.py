"""Calls that need a person's yes."""

import asyncio
import hashlib
import json
import secrets
import unicodedata
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from narthex_server.errors import PermissionDenied
from narthex_server.tools.inputs import Answer, Inputs, Reader
from narthex_server.tools.policy.rule import Rule
from narthex_server.tools.step import Invocation
from narthex_server.tools.tool import ApprovalRequest, CallContext, InputRequest, InputRequired

PATIENCE = 600.0
"""Seconds that a person has for an answer."""

MOST_SHOWN = 8 * 1024
"""Characters of arguments that a person can be expected to look at."""

MOST_PENDING = 10_000
STATE = "narthex-approval:"


@dataclass(frozen=True, slots=True)
class _Decision:
    approved: bool
    reason: str = ""


class Approvals:
    """Asks, and remembers who said yes to a call that its server wants made again with more input."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._pending: dict[str, bytes] = {}

    async def ask(self, rule: Rule, call: Invocation) -> AsyncGenerator[InputRequired]:
        """Yields what is asked and returns when it is approved.

        Raises PermissionDenied with the reason APPROVAL_DECLINED, or APPROVAL_UNAVAILABLE where nobody can be asked.
        """
        shown = readable(call.arguments)
        if len(shown) > MOST_SHOWN:
            raise _unavailable(rule, f"its arguments have {len(shown)} characters, which nobody can be asked to read")
        inputs, asked, read = _question(rule, call, shown)
        with inputs.expect(read) as (name, answer):
            yield InputRequired(inputs.call_id, (replace(asked, id=name),))
            try:
                async with asyncio.timeout(self._patience):
                    decision = await answer
            except TimeoutError:
                raise _unavailable(rule, f"nobody answered within {self._patience:g} s") from None
        if not decision.approved:
            raise PermissionDenied(
                f"this call needs a person's yes, by rule {rule.name!r} of the policy, and was declined"
                + (f": {decision.reason[:500]}" if decision.reason else ""),
                reason="APPROVAL_DECLINED",
                metadata={"rule": rule.name},
            )

    def opened(self, rule: Rule, call: Invocation) -> tuple[Invocation, bool]:
        """The call with its server's own state, and whether it is one that was approved; it is that once."""
        state = call.context.mcp.request_state
        if state is None or not state.startswith(STATE):
            return call, False
        token, _, own = state.removeprefix(STATE).partition(":")
        mcp = replace(call.context.mcp, request_state=own or None)
        known = self._pending.pop(token, None)
        return replace(call, context=replace(call.context, mcp=mcp)), known == _identity(rule, call)

    def sealed(self, rule: Rule, call: Invocation, end: InputRequired) -> InputRequired:
        """The end of an approved call, which may be made again as it is without asking anew."""
        if len(self._pending) >= MOST_PENDING:
            del self._pending[next(iter(self._pending))]
        token = secrets.token_urlsafe(16)
        self._pending[token] = _identity(rule, call)
        return replace(end, request_state=f"{STATE}{token}:{end.request_state or ''}")


def readable(arguments: Mapping[str, Any]) -> str:
    """Arguments as a person reads them: as JSON, in which nothing is invisible or changes the direction of text."""
    text = json.dumps(arguments, ensure_ascii=False, indent=2)
    return "".join(letter if letter == "\n" or _is_visible(letter) else _escaped(letter) for letter in text)


def _is_visible(letter: str) -> bool:
    return letter == " " or unicodedata.category(letter)[0] not in "CZ"


def _escaped(letter: str) -> str:
    return json.dumps(letter)[1:-1] if not letter.isascii() else f"\\u{ord(letter):04x}"


def _question(rule: Rule, call: Invocation, shown: str) -> tuple[Inputs, ApprovalRequest | InputRequest, Reader]:
    context = call.context
    if context.inputs is not None and context.answers_approvals:
        reason = rule.message or f"rule {rule.name!r} of the policy"
        return context.inputs, ApprovalRequest("", call.tool.name, call.raw, reason), _approval
    if context.inputs is not None and _elicits(context):
        text = f"Call the tool {call.tool.name}?" + (f" {rule.message}" if rule.message else "")
        params = {
            "message": f"{text}\n\n{shown}",
            "requestedSchema": {"type": "object", "properties": {}},
        }
        return context.inputs, InputRequest("", "elicitation/create", json.dumps(params).encode()), _elicited
    raise _unavailable(rule, "this caller cannot be asked")


def _elicits(context: CallContext) -> bool:
    own = context.mcp.capabilities.get("elicitation")
    # a client of before there were modes declares an empty object
    return isinstance(own, Mapping) and ("form" in own or not own)


def _approval(answer: Answer) -> _Decision:
    if answer.approved is None:
        raise ValueError
    return _Decision(answer.approved, answer.reason)


def _elicited(answer: Answer) -> _Decision:
    """Of a form that has no fields there is nothing but what was done with it."""
    if answer.approved is not None:
        raise ValueError
    match answer.result:
        case {"action": "accept"}:
            return _Decision(True)
        case {"action": "decline" | "cancel"}:
            return _Decision(False)
    if answer.error is None:
        raise ValueError
    return _Decision(False, "the client refused to ask")


def _identity(rule: Rule, call: Invocation) -> bytes:
    caller = call.context.principal
    facts = [rule.name, caller.tenant, caller.name, call.tool.name, call.tool.server]
    return hashlib.sha256(json.dumps([facts, call.arguments], sort_keys=True).encode()).digest()


def _unavailable(rule: Rule, why: str) -> PermissionDenied:
    return PermissionDenied(
        f"this call needs a person's yes, by rule {rule.name!r} of the policy, and {why}",
        reason="APPROVAL_UNAVAILABLE",
        metadata={"rule": rule.name},
    )
