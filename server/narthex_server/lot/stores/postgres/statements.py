"""What is asked of the database: each a statement that does all of its method of the store."""

# Times come from `clock`, so that all servers go by the database's. The order of columns is that of `rows.ticket`.
_ALL = (
    "tenant", "id", "principal", "kind", "{request}", "digest", "submitted", "keep", "deadline", "priority", "key",
    "repeatable", "webhook_url", "webhook_secret", "state", "version", "attempt", "started", "ended", "expires",
    "events", "size", "code", "status",
)  # fmt: skip
_WHOLE = ", ".join(f"tickets.{name}" for name in _ALL).replace("{request}", "request")
_BRIEF = ", ".join(f"tickets.{name}" for name in _ALL).replace("tickets.{request}", "''::bytea")

_LIVE = "(expires IS NULL OR expires > clock())"
_NAMED = f"tenant = %(tenant)s AND id = %(ticket)s AND {_LIVE}"
_HELD = "tenant = %(tenant)s AND id = %(ticket)s AND attempt = %(attempt)s AND lease IS NOT NULL"
_FREE = "(state = 'waiting' OR lease <= clock())"
_TIMELY = "(deadline IS NULL OR deadline > clock())"
_OVER = """ended = clock(), expires = clock() + keep, lease = NULL, version = version + 1,
    tell = CASE WHEN webhook_url IS NULL THEN NULL ELSE clock() END"""

FORGET = """
WITH gone AS (
    DELETE FROM tickets WHERE tenant = %(tenant)s AND (id = %(ticket)s OR key = %(key)s::bytea) AND expires <= clock()
    RETURNING ref
)
DELETE FROM events USING gone WHERE events.ref = gone.ref
"""
"""Frees an order's id and key, where those that had them have expired."""

ADD = f"""
WITH before AS (
    SELECT {_WHOLE} FROM tickets WHERE tenant = %(tenant)s AND key = %(key)s::bytea
), new AS (
    INSERT INTO tickets (
        tenant, id, principal, kind, request, digest, submitted, keep, deadline, priority, key, repeatable, webhook_url,
        webhook_secret, rank, state, version, attempt, started, size, lease
    )
    SELECT %(tenant)s, %(ticket)s, %(principal)s, %(kind)s, %(request)s, %(digest)s, %(submitted)s, %(keep)s,
        %(deadline)s::float8, %(priority)s, %(key)s::bytea, %(repeatable)s, %(webhook_url)s, %(webhook_secret)s,
        %(rank)s, %(state)s, 1, %(attempt)s, CASE WHEN %(lease)s::float8 IS NULL THEN NULL ELSE clock() END, %(size)s,
        clock() + %(lease)s::float8
    FROM tenants
    WHERE tenants.tenant = %(tenant)s AND open < %(most_open)s AND tenants.size + %(size)s <= %(most_size)s
        AND NOT EXISTS (SELECT FROM before)
        AND NOT EXISTS (SELECT FROM tickets WHERE tenant = %(tenant)s AND id = %(ticket)s)
    RETURNING {_WHOLE}
)
SELECT new.*, true FROM new UNION ALL SELECT before.*, false FROM before
"""
"""The ticket, and whether it is new; none where the id is taken or the tenant has too much. After FORGET."""

WHY = """
SELECT EXISTS (SELECT FROM tickets WHERE tenant = %(tenant)s AND id = %(ticket)s), open, size
FROM tenants WHERE tenant = %(tenant)s
"""
"""Why there was none."""

TAKE = f"""
WITH RECURSIVE waiting AS (
    (
        SELECT tenant, rank, id FROM tickets WHERE state = 'waiting' AND {_TIMELY} ORDER BY tenant, rank, id LIMIT 1
    )
    UNION ALL
    SELECT after.* FROM waiting CROSS JOIN LATERAL (
        SELECT tenant, rank, id FROM tickets
        WHERE state = 'waiting' AND tickets.tenant > waiting.tenant AND {_TIMELY} ORDER BY tenant, rank, id LIMIT 1
    ) AS after
), lapsed AS MATERIALIZED (
    SELECT ref, tenant, rank, id FROM tickets WHERE lease <= clock() AND {_TIMELY}
), heads AS (
    SELECT DISTINCT ON (tenant) tenant, rank, id
    FROM (SELECT * FROM waiting UNION ALL SELECT tenant, rank, id FROM lapsed) AS either ORDER BY tenant, rank, id
), first AS MATERIALIZED (
    SELECT tenant, running FROM heads CROSS JOIN LATERAL (
        SELECT count(*) AS running FROM tickets
        WHERE tickets.tenant = heads.tenant AND lease > clock() AND state = 'running'
    ) AS busy ORDER BY running, rank, id LIMIT %(most)s + %(spare)s
), free AS (
    SELECT running, own.* FROM first CROSS JOIN LATERAL (
        SELECT ref, tenant, rank, id FROM tickets
        WHERE state = 'waiting' AND tickets.tenant = first.tenant AND {_TIMELY}
        ORDER BY rank, id LIMIT %(most)s + %(spare)s
    ) AS own
    UNION ALL
    SELECT running, lapsed.* FROM first JOIN lapsed ON lapsed.tenant = first.tenant
), next AS MATERIALIZED (
    SELECT ref, running + row_number() OVER (PARTITION BY tenant ORDER BY rank, id) AS turn FROM free
    ORDER BY turn, rank, id LIMIT %(most)s + %(spare)s
), mine AS MATERIALIZED (
    SELECT tickets.ref, turn FROM next JOIN tickets ON tickets.ref = next.ref WHERE {_FREE} AND {_TIMELY}
    ORDER BY turn, rank, id LIMIT %(most)s FOR NO KEY UPDATE OF tickets SKIP LOCKED
)
UPDATE tickets SET state = 'running', version = version + 1, attempt = attempt + 1,
    started = coalesce(started, clock()), lease = clock() + %(lease)s
FROM mine WHERE tickets.ref = mine.ref
RETURNING {_WHOLE}, turn, rank
"""
"""Every tenant that has some takes its turns from the number that it has running on: the first turns of all, their
tickets by rank. `most` and `spare` turns are looked at, so that those that another server is taking can be passed over,
and as many tenants: who is not among them with the first ticket has no other. Each comes with its turn and rank.
"""

RENEW = """
UPDATE tickets SET lease = clock() + %(lease)s
FROM unnest(%(tenants)s::text[], %(tickets)s::text[], %(attempts)s::int[]) AS mine (tenant, id, attempt)
WHERE tickets.tenant = mine.tenant AND tickets.id = mine.id AND tickets.attempt = mine.attempt AND lease IS NOT NULL
RETURNING tickets.tenant, tickets.id, tickets.attempt
"""

APPEND = f"""
WITH mine AS (
    SELECT ref, tenant, events FROM tickets WHERE {_HELD} FOR NO KEY UPDATE
), room AS (
    SELECT mine.* FROM mine JOIN tenants ON tenants.tenant = mine.tenant WHERE tenants.size + %(size)s <= %(most_size)s
), kept AS (
    INSERT INTO events SELECT ref, room.events + place, body
    FROM room, unnest(%(bodies)s::bytea[]) WITH ORDINALITY AS given (body, place)
), counted AS (
    UPDATE tickets SET events = tickets.events + cardinality(%(bodies)s::bytea[]), size = tickets.size + %(size)s
    FROM room WHERE tickets.ref = room.ref RETURNING tickets.events
)
SELECT (SELECT events FROM counted), tenants.size FROM mine JOIN tenants ON tenants.tenant = mine.tenant
"""
"""The number of the last event, None where there is no room, and how much there was; none where the lease is lost."""

MOVE = f"""
UPDATE tickets SET version = version + (state <> %(state)s)::int, state = %(state)s WHERE {_HELD} RETURNING {_BRIEF}
"""

FINISH = f"""
WITH mine AS (
    SELECT ref, events FROM tickets WHERE {_HELD} FOR NO KEY UPDATE
), kept AS (
    INSERT INTO events SELECT ref, mine.events + place, body
    FROM mine, unnest(%(bodies)s::bytea[]) WITH ORDINALITY AS given (body, place)
)
UPDATE tickets SET state = %(state)s, code = %(code)s, status = %(status)s, {_OVER},
    events = tickets.events + cardinality(%(bodies)s::bytea[]), size = tickets.size + %(size)s
FROM mine WHERE tickets.ref = mine.ref RETURNING {_BRIEF}
"""

RELEASE = f"""
UPDATE tickets SET state = 'waiting', version = version + 1, lease = NULL WHERE {_HELD} RETURNING true
"""

CANCEL = f"""
WITH freed AS (
    DELETE FROM events USING tickets WHERE events.ref = tickets.ref AND {_NAMED} AND ended IS NOT NULL
), emptied AS (
    UPDATE tickets SET request = '', events = 0, size = 0, expires = clock(), tell = NULL, version = version + 1
    WHERE {_NAMED} AND ended IS NOT NULL RETURNING {_BRIEF}
), ended AS (
    UPDATE tickets SET state = 'cancelled', {_OVER} WHERE {_NAMED} AND ended IS NULL RETURNING {_BRIEF}
)
SELECT * FROM emptied UNION ALL SELECT * FROM ended
"""

GET = f"SELECT {_WHOLE} FROM tickets WHERE {_NAMED}"

AHEAD = f"""
WITH mine AS (
    SELECT tenant, rank, id FROM tickets WHERE {_NAMED} AND state = 'waiting'
), before AS (
    SELECT tickets.tenant = mine.tenant AS own, count(*) AS count FROM tickets, mine
    WHERE state = 'waiting' AND (tickets.rank, tickets.id) < (mine.rank, mine.id) GROUP BY tickets.tenant, mine.tenant
), place AS (
    SELECT coalesce(sum(count) FILTER (WHERE own), 0) AS place FROM before
)
SELECT (place + coalesce(sum(least(count, place + 1)) FILTER (WHERE NOT own), 0))::bigint
FROM place LEFT JOIN before ON true GROUP BY place
"""

LIST = f"""
SELECT {_BRIEF} FROM tickets
WHERE tenant = %(tenant)s AND {_LIVE} AND (cardinality(%(states)s::text[]) = 0 OR state = ANY(%(states)s))
    AND (submitted, id) < (%(submitted)s, %(before)s)
ORDER BY submitted DESC, id DESC LIMIT %(most)s
"""
LIST_FIRST = LIST.replace("AND (submitted, id) < (%(submitted)s, %(before)s)", "")

EVENTS = f"""
SELECT body FROM (
    SELECT body, number, sum(octet_length(body)) OVER (ORDER BY number) AS total FROM (
        SELECT number, body FROM events WHERE ref = (SELECT ref FROM tickets WHERE {_NAMED}) AND number > %(after)s
        ORDER BY number LIMIT %(page)s
    ) AS page
) AS summed WHERE total <= %(most)s OR number = %(after)s + 1 ORDER BY number
"""

HOLDING = """
SELECT coalesce(sum(open), 0)::bigint,
    (SELECT count(*) FROM tickets WHERE expires > clock() AND (%(tenant)s::text IS NULL OR tenant = %(tenant)s)),
    coalesce(sum(size), 0)::bigint
FROM tenants WHERE %(tenant)s::text IS NULL OR tenant = %(tenant)s
"""

SWEEPABLE = f"""
SELECT tenant, count(*) FROM (
    SELECT tenant FROM tickets WHERE expires <= clock()
    UNION ALL SELECT tenant FROM tickets WHERE deadline <= clock() AND ended IS NULL AND {_FREE}
) AS either GROUP BY tenant
"""

SWEEP = f"""
WITH gone AS (
    SELECT ref FROM tickets WHERE tenant = ANY(%(tenants)s) AND expires <= clock() ORDER BY expires LIMIT %(most)s
), freed AS (
    DELETE FROM events USING gone WHERE events.ref = gone.ref
), forgotten AS (
    DELETE FROM tickets USING gone WHERE tickets.ref = gone.ref
), late AS (
    SELECT ref FROM tickets
    WHERE tenant = ANY(%(tenants)s) AND deadline <= clock() AND ended IS NULL AND {_FREE}
    ORDER BY deadline LIMIT %(most)s FOR NO KEY UPDATE SKIP LOCKED
)
UPDATE tickets SET state = 'cancelled', {_OVER} FROM late WHERE tickets.ref = late.ref RETURNING {_BRIEF}
"""

OWED = f"""
UPDATE tickets SET tell = clock() + %(telling)s
FROM (
    SELECT tickets.ref, tell, turn
    FROM tickets JOIN (
        SELECT ref, row_number() OVER (PARTITION BY tenant ORDER BY tell, id) AS turn
        FROM tickets WHERE tell <= clock() AND {_LIVE}
    ) AS turns USING (ref)
    WHERE tell <= clock() ORDER BY turn, tell, id LIMIT %(most)s FOR NO KEY UPDATE OF tickets SKIP LOCKED
) AS owed
WHERE tickets.ref = owed.ref RETURNING {_BRIEF}, owed.turn, owed.tell
"""

TOLD = """
UPDATE tickets SET tell = clock() + %(again)s::float8
WHERE tenant = %(tenant)s AND id = %(ticket)s AND tell IS NOT NULL RETURNING true
"""
"""`again` None: never."""
