"""Requests for work, as orders for the lot."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from narthex.v1 import common_pb2 as common

from narthex_server.errors import Violation
from narthex_server.lot.ticket import Order, Webhook
from narthex_server.pipelines.request import refuse
from narthex_server.services.call import PRIORITIES, check_options
from narthex_server.services.relay import Context
from narthex_server.services.works.kind import Kind
from narthex_server.services.works.whose import Whose

LONGEST_KEY = 128


@dataclass(frozen=True, slots=True)
class Times:
    """How long work may take, waiting included, and how long its result is kept; in seconds, at most."""

    work: float = 86400.0
    keep: float = 86400.0


@dataclass(frozen=True, slots=True)
class Orders:
    """Makes orders of the running RPC's caller."""

    times: Times = Times()
    clock: Callable[[], float] = time.time

    async def make(
        self,
        kind: Kind,
        request: Any,
        context: Context,
        ticket: str,
        seconds: float | None = None,
        keep: float | None = None,
        webhook: Webhook | None = None,
    ) -> Order:
        """The order for a request of the kind; `request` is changed. Raises what the kind's own RPC would."""
        options, whose, now = common.CallOptions(), Whose.now(getattr(request, "call_id", "")), self.clock()
        options.CopyFrom(request.options)
        check_options(options, context)
        if len(options.idempotency_key) > LONGEST_KEY:
            refuse([Violation("options.idempotency_key", f"must have at most {LONGEST_KEY} characters")])
        digest = _digest(kind, request)
        repeatable = await kind.check(request)
        kind.settle(request)
        request.options.CopyFrom(common.CallOptions(priority=options.priority))
        return Order(
            ticket,
            whose.principal.tenant,
            whose.dump(),
            kind.name,
            request.SerializeToString(),
            digest,
            now,
            self.times.keep if keep is None else min(keep, self.times.keep),
            now + (self.times.work if seconds is None else min(seconds, self.times.work)),
            PRIORITIES[options.priority],
            options.idempotency_key,
            repeatable,
            webhook,
        )


def _digest(kind: Kind, request: Any) -> bytes:
    content = hashlib.sha256(kind.name.encode())
    for part in kind.content(request):
        content.update(len(part).to_bytes(8) + part)
    return content.digest()
