"""`at_most = 100`: a number that is not larger."""

from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.verdict import Verdict

SLOW = False


def judge(value: object) -> Judge:
    if not isinstance(value, int | float) or isinstance(value, bool) or value != value:
        raise ValueError("must be a number")
    most = value

    def judged(given: object, directory: str) -> Verdict:
        return given <= most if isinstance(given, int | float) and not isinstance(given, bool) else None

    return judged
