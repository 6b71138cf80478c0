"""`max_length = 100`: a text of at most so many characters, or an array of at most so many items."""

from narthex_server.tools.policy.predicate import Judge
from narthex_server.tools.policy.verdict import Verdict

SLOW = False


def judge(value: object) -> Judge:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError("must be a whole number, 0 or more")
    most = value

    def judged(given: object, directory: str) -> Verdict:
        return len(given) <= most if isinstance(given, str | list) else None

    return judged
