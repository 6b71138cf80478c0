"""From settings to a running lot of tickets, and back."""

import asyncio
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from google.rpc.code_pb2 import Code
from narthex.settings import SettingsError
from prometheus_client import CollectorRegistry

from narthex_server.config.tickets import StorePlace, TicketSettings
from narthex_server.errors import NarthexError
from narthex_server.interceptors.errors import status, visible
from narthex_server.lot.courier import Courier
from narthex_server.lot.crew import Crew
from narthex_server.lot.desk import Desk
from narthex_server.lot.keeper import Keeper
from narthex_server.lot.news import News
from narthex_server.lot.stores.choice import chosen
from narthex_server.lot.stores.store import TicketStore
from narthex_server.lot.ticket import Holding, Quota, State
from narthex_server.lot.transition import Observers, Transition, Verb
from narthex_server.lot.webhooks import Hosts, HttpPost
from narthex_server.metrics.tickets import TicketMetrics
from narthex_server.principal import CALLER, REQUEST_ID
from narthex_server.services.parking import Parking
from narthex_server.services.tickets import Office
from narthex_server.services.works.orders import Orders, Times
from narthex_server.services.works.parking import LotParking
from narthex_server.services.works.rights import Rights
from narthex_server.services.works.whose import Whose
from narthex_server.services.works.works import Works
from narthex_server.tools.acts import Act, Acts
from narthex_server.worker import in_thread


@dataclass(frozen=True, slots=True)
class Ticketing:
    """The lot; `works` is to be given kinds of work, and then `crew` started."""

    office: Office
    works: Works
    parking: Parking
    crew: Crew


@asynccontextmanager
async def ticketing(
    settings: TicketSettings, port: int, registry: CollectorRegistry, acts: Acts, rights: Rights
) -> AsyncIterator[Ticketing]:
    """The lot of a server that was told to listen on this port; raises SettingsError where the store cannot be used."""
    async with AsyncExitStack() as stack:
        quota = Quota(settings.max_open, settings.max_bytes)
        place = settings.where(port)
        if place is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="narthex-"))
            place = str(Path(folder) / "tickets.sqlite")
        store = await opened(place, quota)
        stack.push_async_callback(store.close)
        news, observer = News(), Observers(TicketMetrics(registry), TicketActs(acts))
        works = Works(lambda error: status(visible(error)), rights)
        crew = Crew(store, works, news, observer, most=settings.running, lease=settings.lease)
        desk = Desk(store, crew, news, observer)
        orders = Orders(Times(settings.max_seconds, settings.keep))
        hosts = Hosts(settings.webhook_hosts, private=settings.webhook_private)
        post = HttpPost(hosts, await in_thread(trusted, settings.webhook_ca) if settings.webhook_hosts else None)
        stack.push_async_callback(post.close)
        loops = [desk.read_changes(), Keeper(store, news, observer).run()]
        if settings.webhook_hosts:
            loops.append(Courier(store, post, observer).run())
        tasks = [asyncio.create_task(loop) for loop in loops]
        stack.push_async_callback(ended, tasks)
        yield Ticketing(
            Office(desk, works, orders, quota, hosts, acts), works, LotParking(desk, works, orders, acts), crew
        )


async def opened(place: str, quota: Quota) -> TicketStore:
    """The store at a place. Raises SettingsError where it cannot be used."""
    try:
        return await in_thread(chosen, place, quota)
    except NarthexError as error:
        raise SettingsError(f"--tickets-store: {StorePlace(place)} cannot be used: {error.message}") from error


def trusted(ca: Path | None) -> ssl.SSLContext:
    """Whom webhooks' certificates have to be of. Raises SettingsError."""
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as error:
        raise SettingsError(f"--tickets-webhook-ca: {ca} cannot be used: {error}") from error


async def ended(tasks: "list[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


class TicketActs:
    """Writes what becomes of tickets into the record of acts, as done by those whose they are, or who asked for it."""

    def __init__(self, acts: Acts) -> None:
        self._acts = acts

    def on_transition(self, transition: Transition) -> None:
        ticket = transition.ticket
        reason = transition.error
        if transition.verb is Verb.FINISHED and ticket.state is not State.DONE:
            reason = Code.Name(ticket.code) if ticket.code in Code.values() and ticket.code else "CANCELLED"
        name, request_id = ticket.order.id, ticket.order.id
        principal = Whose.parse(ticket.order.principal).principal
        if transition.verb in (Verb.CANCELLED, Verb.DISCARDED):  # which an admin may ask for, too
            principal, request_id = CALLER.get(), REQUEST_ID.get()
        self._acts.on_act(Act(f"ticket.{transition.verb.value}", name, principal, request_id, reason))

    def on_holding(self, holding: Holding) -> None:
        """Nothing has happened."""
