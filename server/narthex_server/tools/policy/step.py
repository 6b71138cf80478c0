"""The policy around every call."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Protocol

from narthex_server.errors import DeadlineExceeded, InvalidToolArguments, PermissionDenied, ResourceExhausted
from narthex_server.tools.policy.approvals import Approvals
from narthex_server.tools.policy.limits import PassedCalls
from narthex_server.tools.policy.observer import PolicyObserver
from narthex_server.tools.policy.policy import DEFAULT, Policy
from narthex_server.tools.policy.rule import Rule
from narthex_server.tools.policy.subject import subject_of
from narthex_server.tools.step import Invocation, Run
from narthex_server.tools.tool import InputRequired, ToolEvent

AT_ONCE_BYTES = 16 * 1024
"""Arguments up to this are judged right away; larger ones, and what is slow, in a thread."""


class HasPolicy(Protocol):
    """Where the rules of the moment are."""

    @property
    def policy(self) -> Policy: ...


class PolicyStep:
    """Refuses a call, asks for a yes, or lets it through within the limits of the rule that decides."""

    def __init__(
        self,
        current: HasPolicy,
        observer: PolicyObserver,
        working_directory: Callable[[str], str] = lambda server: "",
        approvals: Approvals | None = None,
    ) -> None:
        """`working_directory` is the folder that the process of a server runs in, empty where that is not known."""
        self._current = current
        self._working_directory = working_directory
        self._observer = observer
        self._approvals = approvals or Approvals()
        self._passed = PassedCalls()
        self._known: Policy | None = None

    async def around(self, call: Invocation, run: Run) -> AsyncGenerator[ToolEvent]:
        """Yields what `run` does, and before it what a person is asked.

        Raises:
            PermissionDenied: POLICY_DENIED, APPROVAL_DECLINED or APPROVAL_UNAVAILABLE, with `rule` in the metadata.
            ResourceExhausted: POLICY_RATE or POLICY_CONCURRENCY, with the time after which to try again.
            DeadlineExceeded: POLICY_TIMEOUT.
        """
        call, rule = await self._decided(call)
        call.trail.rule = rule.name
        self._observer.on_decision(rule.name, rule.effect)
        if rule.effect == "deny":
            raise _denied(rule)
        if wait := self._passed.take(rule, call.context.principal):
            self._observer.on_limit(rule.name, "rate")
            raise _exhausted(rule, "RATE", f"allows {rule.limits.rate}", wait)
        call, approved = self._approvals.opened(rule, call)
        if rule.effect == "confirm" and not approved:
            async with aclosing(self._approved(rule, call)) as questions:
                async for question in questions:
                    yield question
            rule = await self._still(rule, call)
        with self._passed.running(rule, call.context.principal) as free:
            if not free:
                self._observer.on_limit(rule.name, "concurrency")
                raise _exhausted(rule, "CONCURRENCY", f"allows {rule.limits.concurrency} calls at once", 1.0)
            limit = rule.limits.timeout
            async with aclosing(run(call) if limit is None else self._timed(rule, run(call), limit)) as events:
                async for event in events:
                    if (
                        rule.effect == "confirm"
                        and isinstance(event, InputRequired)
                        and event.request_state is not None
                    ):
                        event = self._approvals.sealed(rule, call, event)
                    yield event

    async def _decided(self, call: Invocation) -> tuple[Invocation, Rule]:
        """The rule that decides, and the call with arguments that are read by everybody as they were judged."""
        policy = self._current.policy
        if policy is not self._known:
            self._known = policy
            self._passed.keep({rule.name for rule in policy.rules})
        plan = policy.plan(call.context.principal, subject_of(call.tool))
        if len(plan.candidates) == 1 and plan.candidates[0].effect != "confirm":
            return call, plan.candidates[0]  # no rule looks at arguments
        directory = self._working_directory(call.tool.server)
        if plan.slow or len(call.raw) > AT_ONCE_BYTES:
            return await asyncio.to_thread(lambda: (_plain(call), plan.decide(call.arguments, directory)))
        return _plain(call), plan.decide(call.arguments, directory)

    async def _still(self, asked: Rule, call: Invocation) -> Rule:
        """The rule that decides now, which may deny what was asked for under another one; people take their time."""
        _, rule = await self._decided(call)
        if rule.effect != "deny":
            return asked
        call.trail.rule = rule.name
        self._observer.on_decision(rule.name, rule.effect)
        raise _denied(rule)

    async def _approved(self, rule: Rule, call: Invocation) -> AsyncGenerator[InputRequired]:
        try:
            async with aclosing(self._approvals.ask(rule, call)) as questions:
                async for question in questions:
                    yield question
        except PermissionDenied as error:
            declined = error.reason == "APPROVAL_DECLINED"
            self._observer.on_approval(rule.name, "declined" if declined else "unavailable")
            raise
        self._observer.on_approval(rule.name, "approved")

    async def _timed(self, rule: Rule, events: AsyncGenerator[ToolEvent], limit: float) -> AsyncGenerator[ToolEvent]:
        end = asyncio.get_running_loop().time() + limit
        async with aclosing(events):
            while True:
                try:
                    async with asyncio.timeout_at(end) as timer:
                        event = await anext(events)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    if not timer.expired():
                        raise
                    self._observer.on_limit(rule.name, "timeout")
                    raise DeadlineExceeded(
                        f"rule {rule.name!r} of the policy allows {limit:g} s for a call; it was cancelled",
                        reason="POLICY_TIMEOUT",
                        metadata={"rule": rule.name},
                    ) from None
                yield event


def _plain(call: Invocation) -> Invocation:
    """The call with the JSON of what was parsed: of a name that stands twice readers may take either value."""
    try:
        raw = json.dumps(call.arguments, allow_nan=False).encode()
    except ValueError:
        raise InvalidToolArguments("arguments hold a number that is too large") from None
    return replace(call, raw=raw)


def _denied(rule: Rule) -> PermissionDenied:
    if rule is DEFAULT:
        text = "no rule of the policy allows this call with these arguments"
    else:
        text = f"rule {rule.name!r} of the policy denies this call" + (f": {rule.message}" if rule.message else "")
    metadata = {"rule": rule.name} | ({"message": rule.message} if rule.message else {})
    return PermissionDenied(text, reason="POLICY_DENIED", metadata=metadata)


def _exhausted(rule: Rule, limit: str, allows: str, wait: float) -> ResourceExhausted:
    return ResourceExhausted(
        f"rule {rule.name!r} of the policy {allows}; try again in {max(wait, 0.001):.3g} s",
        reason=f"POLICY_{limit}",
        metadata={"rule": rule.name},
        retry_after=wait,
    )
