"""Running calls that wait for input, and the answers to them."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from narthex_server.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound, Violation

CALL_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to the request `id`: a result, or the JSON-RPC error of a caller that cannot or will not give one.

    To a call that has to be approved it is a yes or no, with a reason for the no.
    """

    id: str
    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
    approved: bool | None = None
    reason: str = ""

    @property
    def kind(self) -> str:
        """Which of them it is."""
        if self.approved is not None:
            return "approved"
        return "result" if self.error is None else "error"


Reader = Callable[[Answer], Any]
"""Makes of an answer what the asker takes; raises ValueError for one that does not fit the request."""


@dataclass(frozen=True, slots=True)
class _Expected:
    read: Reader
    answer: "asyncio.Future[Any]"


class Inputs:
    """What one running call waits for."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        self._expected: dict[str, _Expected] = {}
        self._asked = 0

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._expected)

    @contextmanager
    def expect(self, read: Reader) -> Iterator[tuple[str, "asyncio.Future[Any]"]]:
        """A new request's id and its answer to come; nothing answers it after the block."""
        self._asked += 1
        name = str(self._asked)
        expected = _Expected(read, asyncio.get_running_loop().create_future())
        self._expected[name] = expected
        try:
            yield name, expected.answer
        finally:
            self._expected.pop(name, None)

    def answer(self, answers: Sequence[Answer]) -> int:
        """Takes all of the answers, or none; returns how many requests still wait.

        Raises:
            FailedPrecondition: one of them answers what the call does not wait for.
            InvalidRequest: one of them does not fit its request, or two answer the same.
        """
        taken: dict[str, Any] = {}
        for index, answer in enumerate(answers):
            expected = self._expected.get(answer.id)
            if expected is None:
                raise FailedPrecondition(
                    f"call {self.call_id!r} does not wait for input {answer.id[:100]!r}",
                    reason="NOT_WAITING",
                    metadata={"call_id": self.call_id},
                )
            if answer.id in taken:
                raise _misfit(f"responses[{index}].id", "is answered twice")
            try:
                taken[answer.id] = expected.read(answer)
            except ValueError:
                raise _misfit(f"responses[{index}].{answer.kind}", "does not fit what the request asks for") from None
        for name, value in taken.items():
            self._expected.pop(name).answer.set_result(value)
        return self.waiting


class RunningCalls:
    """The inputs of all running calls, by tenant and call id."""

    def __init__(self) -> None:
        self._inputs: dict[tuple[str, str], Inputs] = {}

    @property
    def waiting(self) -> int:
        """How many requests of all calls wait for an answer."""
        return sum(inputs.waiting for inputs in self._inputs.values())

    @contextmanager
    def enter(self, tenant: str, call_id: str, request_id: str) -> Iterator[Inputs]:
        """Counts a call as running inside the block; one without an id gets one from `request_id`.

        Raises:
            InvalidRequest: the id is not 1 to 128 visible ASCII characters.
            AlreadyExists: a running call of the tenant has this id.
        """
        check_id(call_id)
        if call_id and (tenant, call_id) in self._inputs:
            raise AlreadyExists(f"a call {call_id!r} is running already", metadata={"call_id": call_id})
        name, number = call_id or request_id, 1
        while (tenant, name) in self._inputs:  # request ids need not be unique
            number += 1
            name = f"{request_id}#{number}"
        inputs = Inputs(name)
        self._inputs[tenant, name] = inputs
        try:
            yield inputs
        finally:
            del self._inputs[tenant, name]

    def answer(self, tenant: str, call_id: str, answers: Sequence[Answer]) -> int:
        """As Inputs.answer; raises NotFound for a call that does not run, or is another tenant's."""
        if (inputs := self._inputs.get((tenant, call_id))) is None:
            raise NotFound(f"no call {call_id[:200]!r} is running", reason="CALL_NOT_FOUND")
        return inputs.answer(answers)


def check_id(call_id: str) -> None:
    """Raises InvalidRequest for a call's id that is none; it may be empty."""
    if call_id and not CALL_ID.fullmatch(call_id):
        raise _misfit("call_id", "must be 1 to 128 visible ASCII characters")


def _misfit(field: str, description: str) -> InvalidRequest:
    return InvalidRequest(f"{field} {description}", violations=(Violation(field, description),))
