"""Questions to the caller of a run: for approval, and on behalf of upstreams."""

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from narthex_server.agent.options import Approvals
from narthex_server.errors import FailedPrecondition, PermissionDenied
from narthex_server.text.messages import ToolCall
from narthex_server.tools.arguments import parse_arguments
from narthex_server.tools.inputs import Answer, Inputs
from narthex_server.tools.tool import ApprovalRequest, InputRequest, InputRequired, Tool

Tell = Callable[[InputRequired], None]
"""Shows the caller what is wanted of it."""


async def approve(approvals: Approvals, tool: Tool, call: ToolCall, inputs: Inputs | None, tell: Tell) -> None:
    """Returns when the call may be made; raises PermissionDenied, in words for the model, when it may not.

    A person reads what the tool will: of a name that stands twice the value that counts, and no letters unseen.
    """
    if not (reason := approvals.reason(tool)):
        return
    if inputs is None:
        raise PermissionDenied("this call needs a person's approval, and nobody can be asked here; it was not made")
    with inputs.expect(_verdict) as (name, answer):
        arguments = json.dumps(parse_arguments(call.arguments.encode("utf-8", "replace"))).encode()
        tell(InputRequired(inputs.call_id, (ApprovalRequest(name, call.name, arguments, reason),)))
        try:
            async with asyncio.timeout(approvals.seconds):
                verdict: Answer = await answer
        except TimeoutError:
            raise PermissionDenied(f"nobody approved this call within {approvals.seconds:g} s; not made") from None
    if not verdict.approved:
        why = f": {verdict.reason}" if verdict.reason else ""
        raise PermissionDenied(f"the user refused this call{why}; it was not made")


async def answered(wanted: InputRequired, inputs: Inputs, seconds: float, tell: Tell) -> Mapping[str, Any]:
    """The caller's answers to a call that is over until it has them, by the ids of its requests.

    Raises:
        FailedPrecondition: the caller cannot or will not answer, or takes more than `seconds`; for the model.
    """
    with ExitStack() as stack:
        names, asked, answers = [], [], []
        for request in wanted.requests:
            read = _verdict if isinstance(request, ApprovalRequest) else _plain
            name, answer = stack.enter_context(inputs.expect(read))
            names.append(request.id)
            answers.append(answer)
            asked.append(_named(request, name))
        tell(InputRequired(inputs.call_id, tuple(asked)))
        try:
            async with asyncio.timeout(seconds):
                given: list[Answer] = [await answer for answer in answers]
        except TimeoutError:
            raise FailedPrecondition(f"the user did not answer the tool within {seconds:g} seconds") from None
    if refused := next((one for one in given if one.error is not None), None):
        raise FailedPrecondition(
            f"the user did not answer the tool: {(refused.error or {}).get('message', 'no reason')}"
        )
    return {name: _content(one) for name, one in zip(names, given, strict=True)}


def _named(request: InputRequest | ApprovalRequest, name: str) -> InputRequest | ApprovalRequest:
    if isinstance(request, InputRequest):
        return InputRequest(name, request.method, request.params)
    return ApprovalRequest(name, request.name, request.arguments, request.reason)


def _content(answer: Answer) -> Any:
    return {"approved": answer.approved, "reason": answer.reason} if answer.approved is not None else answer.result


def _verdict(answer: Answer) -> Answer:
    if answer.approved is None:
        raise ValueError
    return answer


def _plain(answer: Answer) -> Answer:
    if answer.approved is not None:
        raise ValueError
    return answer
