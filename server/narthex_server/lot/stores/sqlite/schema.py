"""The tables of a file of tickets, and how a file of an earlier version becomes one of this."""

APPLICATION = 0x6E746B74
"""SQLite's application_id of such a file: `ntkt`."""

WAITING, RUNNING, INPUT_REQUIRED, DONE, FAILED, CANCELLED = range(6)
"""Values of tickets.state; those from DONE on are over. Partial indices name them."""

# The rows that change often (tickets, tenants) are small: what is large lies elsewhere and is written once.
_FIRST = f"""
create table tickets (
    ref integer primary key, tenant text not null, id text not null, key text, principal blob not null,
    kind text not null, digest blob not null, submitted real not null, keep real not null, deadline real,
    priority integer not null, repeatable integer not null, url text, secret text, rank real not null,
    state integer not null, version integer not null, attempt integer not null, started real, ended real, expires real,
    events integer not null, size integer not null, code integer not null, status blob not null,
    lease real, due real, change integer not null
);
create unique index tickets_id on tickets (tenant, id);
create unique index tickets_key on tickets (tenant, key) where key is not null;
create index tickets_waiting on tickets (tenant, rank, id) where state = {WAITING};
create index tickets_leased on tickets (lease) where lease is not null;
create index tickets_overdue on tickets (deadline) where deadline is not null and state < {DONE};
create index tickets_listed on tickets (tenant, submitted, id);
create index tickets_parked on tickets (tenant, expires) where expires is not null;
create index tickets_expiring on tickets (expires) where expires is not null;
create index tickets_due on tickets (due) where due is not null;
create index tickets_changed on tickets (change);
create table requests (ref integer primary key, body blob not null);
create table events (place integer primary key, body blob not null);
create table tenants (
    tenant text primary key, tickets integer not null, open integer not null, size integer not null, head real
) without rowid;
create index tenants_head on tenants (head) where head is not null;
create table counter (one integer primary key check (one = 1), change integer not null);
insert into counter values (1, 0);
"""
"""tickets.lease: until when; tickets.due: when to tell the webhook; tickets.change: counter.change at its last change.
events.place: `place()`. tenants.head: the rank of the first ticket that waits.
"""

MIGRATIONS: tuple[str, ...] = (_FIRST,)
"""The n-th makes version n of version n - 1; never changed once released."""

_EVENT_BITS = 32


def place(ref: int, number: int) -> int:
    """Where the event of that number (from 1) of a ticket lies: those of a ticket side by side, without an index."""
    return ref << _EVENT_BITS | number
