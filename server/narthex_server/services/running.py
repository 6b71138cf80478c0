"""The generations in flight, so that another call can end them."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from narthex_server.pipelines.models import AnyText


@dataclass(slots=True, eq=False)
class Generation:
    """One generation: whose it is, what it runs on, and the task of its call; `name` is what the engine knows it by."""

    request_id: str
    name: str
    tenant: str
    model: AnyText
    task: "asyncio.Task[object]"
    aborted: bool = False

    def cancel(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.task.cancel()


class Running:
    """The generations of this server; a caller may reuse a request id, so there can be several of one id."""

    def __init__(self) -> None:
        self._generations: set[Generation] = set()

    @contextmanager
    def enter(self, request_id: str, tenant: str, model: AnyText) -> Iterator[Generation]:
        """Counts the current task's generation as running inside the block."""
        task = asyncio.current_task()
        assert task is not None
        name, number = request_id, 1
        while any(one.name == name for one in self._generations):
            number += 1
            name = f"{request_id}#{number}"
        generation = Generation(request_id, name, tenant, model, task)
        self._generations.add(generation)
        try:
            yield generation
        finally:
            self._generations.discard(generation)

    def abort(self, request_id: str, tenant: str) -> bool:
        """Ends the tenant's generations of this id; False if there is none.

        One in the engine ends with what it has; between rounds, while tools run, its task is cancelled.
        """
        found = [one for one in self._generations if one.request_id == request_id and one.tenant == tenant]
        for generation in found:
            if not generation.model.abort(generation.name):
                generation.cancel()
        return bool(found)
