"""The tables of the lot, and how a database comes to have them."""

from collections.abc import Sequence

from narthex_server.errors import FailedPrecondition
from narthex_server.lot.stores.postgres.connection import Connection
from narthex_server.lot.stores.refusals import UNUSABLE

# Whatever changes a ticket, the trigger counts it for its tenant, marks it with the transaction that changed it, and
# tells the listeners. `ended` is set exactly in tickets that are over, `lease` (until when) exactly in those that
# somebody works on, `tell` where a webhook is owed (when). Times are seconds since 1970, by `clock`. `writers` has the
# last transaction of each server.
_FIRST = """
CREATE FUNCTION {schema}.clock() RETURNS double precision LANGUAGE sql STABLE PARALLEL SAFE
    AS 'SELECT extract(epoch FROM now())::double precision';

CREATE TABLE {schema}.tenants (
    tenant text COLLATE "C" PRIMARY KEY,
    open bigint NOT NULL DEFAULT 0,
    size bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

CREATE TABLE {schema}.tickets (
    ref bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    principal bytea NOT NULL,
    kind text NOT NULL,
    request bytea NOT NULL,
    digest bytea NOT NULL,
    submitted double precision NOT NULL,
    keep double precision NOT NULL,
    deadline double precision,
    priority smallint NOT NULL,
    key bytea,
    repeatable boolean NOT NULL,
    webhook_url text,
    webhook_secret text,
    rank double precision NOT NULL,
    state text NOT NULL,
    version bigint NOT NULL,
    attempt integer NOT NULL,
    started double precision,
    ended double precision,
    expires double precision,
    events bigint NOT NULL DEFAULT 0,
    size bigint NOT NULL,
    code integer NOT NULL DEFAULT 0,
    status bytea NOT NULL DEFAULT '',
    lease double precision,
    tell double precision,
    changed xid8 NOT NULL
) WITH (fillfactor = 70);
CREATE UNIQUE INDEX tickets_id ON {schema}.tickets (tenant, id);
CREATE UNIQUE INDEX tickets_key ON {schema}.tickets (tenant, key) WHERE key IS NOT NULL;
CREATE INDEX tickets_waiting ON {schema}.tickets (tenant, rank, id) WHERE state = 'waiting';
CREATE INDEX tickets_leased ON {schema}.tickets (tenant, lease) WHERE lease IS NOT NULL;
CREATE INDEX tickets_overdue ON {schema}.tickets (deadline) WHERE deadline IS NOT NULL AND ended IS NULL;
CREATE INDEX tickets_parked ON {schema}.tickets (tenant, expires) WHERE expires IS NOT NULL;
CREATE INDEX tickets_expiring ON {schema}.tickets (expires) WHERE expires IS NOT NULL;
CREATE INDEX tickets_owed ON {schema}.tickets (tell) WHERE tell IS NOT NULL;
CREATE INDEX tickets_listed ON {schema}.tickets (tenant, submitted, id);

CREATE TABLE {schema}.events (
    ref bigint NOT NULL,
    number bigint NOT NULL,
    body bytea NOT NULL,
    PRIMARY KEY (ref, number)
);

CREATE TABLE {schema}.writers (
    id text PRIMARY KEY,
    number bigint NOT NULL,
    seen double precision NOT NULL
) WITH (fillfactor = 50);

CREATE FUNCTION {schema}.noted() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    opened integer := 0;
    bytes bigint := 0;
    note text;
BEGIN
    IF TG_OP <> 'INSERT' THEN
        opened := -(OLD.ended IS NULL)::integer;
        bytes := -OLD.size;
    END IF;
    IF TG_OP <> 'DELETE' THEN
        opened := opened + (NEW.ended IS NULL)::integer;
        bytes := bytes + NEW.size;
        NEW.changed := pg_current_xact_id();
        note := json_build_array(NEW.tenant, NEW.id, NEW.version, NEW.events)::text;
        PERFORM pg_notify('{channel}', CASE WHEN octet_length(note) < 7000 THEN note ELSE '' END);
    END IF;
    IF opened <> 0 OR bytes <> 0 THEN
        UPDATE {schema}.tenants SET open = open + opened, size = size + bytes
        WHERE tenant = CASE WHEN TG_OP = 'DELETE' THEN OLD.tenant ELSE NEW.tenant END;
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER noted BEFORE INSERT OR DELETE OR UPDATE OF version, events, size ON {schema}.tickets
    FOR EACH ROW EXECUTE FUNCTION {schema}.noted();
"""

MIGRATIONS: Sequence[str] = (_FIRST,)
"""Each makes of the schema before it the next; what has been released never changes."""

FORGOTTEN_S = 86400
"""After so long a server that wrote nothing is not missed; it asks about its last transaction within seconds."""

OLDEST = 130000
"""The oldest PostgreSQL that has what is used: transaction ids of 64 bits."""


def channel(schema: str) -> str:
    """On which the changes of a schema are told."""
    return f"{schema}_lot"


async def migrate(connection: Connection, schema: str, migrations: Sequence[str] = MIGRATIONS) -> None:
    """Brings the schema up to date, however many servers try at once: all of it, or nothing.

    Raises FailedPrecondition where the database, or what is in it, cannot be used by this version.
    """
    if connection.info.server_version < OLDEST:
        raise FailedPrecondition("tickets need PostgreSQL 13 or newer", reason=f"{UNUSABLE}_VERSION")
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (f"narthex lot {schema}",))
        cursor = await connection.execute("SELECT to_regclass(%s)", (f"{schema}.migrations",))
        if (await cursor.fetchone()) == (None,):
            cursor = await connection.execute("SELECT to_regnamespace(%s)", (schema,))
            if (await cursor.fetchone()) == (None,):
                await connection.execute(f"CREATE SCHEMA {schema}".encode())
            await connection.execute(f"CREATE TABLE {schema}.migrations (number integer PRIMARY KEY)".encode())
        cursor = await connection.execute(f"SELECT coalesce(max(number), 0) FROM {schema}.migrations".encode())
        [[number]] = await cursor.fetchall()
        if number > len(migrations):
            raise FailedPrecondition("the tickets are of a newer version of narthex", reason=f"{UNUSABLE}_VERSION")
        for step, migration in enumerate(migrations[number:], start=number + 1):
            statements = migration.format(schema=schema, channel=channel(schema))
            await connection.execute(statements.encode(), prepare=False)
            await connection.execute(f"INSERT INTO {schema}.migrations VALUES ({step})".encode())
        forgotten = f"DELETE FROM {schema}.writers WHERE seen < {schema}.clock() - {FORGOTTEN_S}"
        await connection.execute(forgotten.encode())
