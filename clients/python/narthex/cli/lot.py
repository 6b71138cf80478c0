"""`narthex lot pools`, `resize`, `drain`, `resume`, `list`, `show` and `cancel`."""

import argparse
import json
from collections.abc import Sequence

from google.protobuf.json_format import MessageToDict
from google.protobuf.timestamp_pb2 import Timestamp

from narthex.cli.connection import add_connection_flags, call
from narthex.cli.exits import Exit
from narthex.client import Client
from narthex.v1 import common_pb2 as common
from narthex.v1 import lot_pb2 as wire

STATES = {
    name.removeprefix("TICKET_STATE_").lower().replace("_", "-"): value
    for name, value in wire.TicketState.items()
    if value != wire.TICKET_STATE_UNSPECIFIED
}
PRIORITIES = {
    common.PRIORITY_BATCH: "batch",
    common.PRIORITY_NORMAL: "normal",
    common.PRIORITY_INTERACTIVE: "interactive",
    common.PRIORITY_CRITICAL: "critical",
}


def add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    pools = actions.add_parser("pools", help="one line per pool: what is taken, what there is, and what waits")
    resizing = actions.add_parser(
        "resize", help="change how much there is of a pool's resources, until the server ends"
    )
    resizing.add_argument("pool", help="such as model/demo or upstream/files")
    resizing.add_argument("capacity", nargs="+", type=_capacity, metavar="RESOURCE=NUMBER", help="such as slots=4")
    draining = actions.add_parser("drain", help="admit nothing more to a pool, or to any; what waits goes on waiting")
    resuming = actions.add_parser("resume", help="admit again")
    for action in (draining, resuming):
        action.add_argument("pool", nargs="?", default="", help="all, if none is named")
    listing = actions.add_parser("list", help="one line per ticket of the tenant, the newest first")
    listing.add_argument("--state", action="append", default=[], choices=STATES, help="only those; repeatable")
    showing = actions.add_parser("show", help="one ticket")
    cancelling = actions.add_parser("cancel", help="end a ticket's work, or throw its result away")
    for action in (showing, cancelling):
        action.add_argument("ticket", help="its id")
    for action in (pools, resizing, draining, resuming, listing, showing, cancelling):
        add_connection_flags(action)
        action.add_argument("--json", action="store_true", help="print JSON, all fields of the contract")


def run(arguments: argparse.Namespace) -> int:
    return call(arguments, lambda client: _run(client, arguments))


async def _run(client: Client, arguments: argparse.Namespace) -> int:
    shown: Sequence[wire.Pool | wire.Ticket] = ()
    match arguments.action:
        case "pools":
            shown = await client.list_pools()
        case "resize":
            shown = [await client.resize_pool(arguments.pool, dict(arguments.capacity))]
        case "drain" | "resume":
            shown = await client.drain_pool(arguments.pool, resume=arguments.action == "resume")
        case "list":
            shown = await client.list_tickets([STATES[name] for name in arguments.state])
        case "show":
            shown = [await client.get_ticket(arguments.ticket)]
        case "cancel":
            shown = [await client.cancel_ticket(arguments.ticket)]
    if arguments.json:
        print(json.dumps([MessageToDict(one, preserving_proto_field_name=True) for one in shown], indent=2))
    else:
        for one in shown:
            print(pool_line(one) if isinstance(one, wire.Pool) else ticket_line(one))
    return Exit.OK


def pool_line(pool: wire.Pool) -> str:
    """Name, what is taken of what there is, what runs and waits."""
    resources = [f"{one.name} {one.used}/{one.capacity}" for one in pool.resources]
    levels = ", ".join(f"{one.count} {PRIORITIES.get(one.priority, 'unknown')}" for one in pool.waiting)
    waiting = sum(one.count for one in pool.waiting)
    longest = pool.longest_wait.ToMilliseconds() / 1000
    columns = [
        pool.name,
        *resources,
        f"{pool.running} running",
        f"{waiting} of {pool.max_waiting} waiting" + (f" ({levels}; {longest:.1f} s)" if waiting else ""),
        "draining" if pool.draining else "",
    ]
    return "\t".join(filter(None, columns))


def ticket_line(ticket: wire.Ticket) -> str:
    """Id, state, priority, how many go before it, and its times."""
    state = next((name for name, value in STATES.items() if value == ticket.state), "unknown")
    columns = [
        ticket.id,
        state,
        PRIORITIES.get(ticket.priority, "normal"),
        f"{ticket.ahead} ahead" if ticket.ahead else "",
        *_times(ticket),
    ]
    return "\t".join(filter(None, columns))


def _times(ticket: wire.Ticket) -> list[str]:
    times = (
        ("submitted", ticket.HasField("submit_time"), ticket.submit_time),
        ("started", ticket.HasField("start_time"), ticket.start_time),
        ("ended", ticket.HasField("end_time"), ticket.end_time),
        ("expires", ticket.HasField("expire_time"), ticket.expire_time),
    )
    return [f"{word} {_moment(time)}" for word, known, time in times if known]


def _moment(time: Timestamp) -> str:
    return time.ToDatetime().isoformat(" ", "seconds") + "Z"


def _capacity(text: str) -> tuple[str, int]:
    resource, equals, amount = text.partition("=")
    if not resource or not equals or not amount.isdecimal() or not 0 < int(amount) < 1 << 63:
        raise argparse.ArgumentTypeError("must be RESOURCE=NUMBER, such as slots=4")
    return resource, int(amount)
