"""Regular expressions in files that anybody may have written."""

import re

MOST_REPEATS, LONGEST = 3, 256
_REPEAT, _OF_GROUP = re.compile(r"[*+?{]"), re.compile(r"\)[*+?{]")


def bounded(pattern: str) -> re.Pattern[str]:
    """Compile an expression that ends to match in reasonable time. Errors: ValueError, saying what it may have.

    Only few repetitions, none of them of a group, are taken: with others Python's engine may take for ever.
    """
    if len(pattern) > LONGEST or len(_REPEAT.findall(pattern)) > MOST_REPEATS or _OF_GROUP.search(pattern):
        raise ValueError(f"may have {LONGEST} characters and {MOST_REPEATS} repetitions, but none of a group")
    try:
        return re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"cannot be read: {error}") from error
