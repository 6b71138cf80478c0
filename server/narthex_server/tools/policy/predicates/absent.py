"""`absent = true`: the value is not there; whether null is there, servers see differently, so it cannot be told."""

from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.selection import MISSING

SLOW = False


def judge(value: object) -> Judge:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return lambda given, directory: None if given is None else (given is MISSING) == value
