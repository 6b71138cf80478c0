"""Shell-style patterns of names, compiled."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate

NameTest = Callable[[str], bool]


def names(patterns: Iterable[str]) -> NameTest:
    """Whether a name is one of these, or fits one with `*`, `?` or `[abc]`; case counts."""
    patterns = tuple(patterns)
    if "*" in patterns:
        return lambda name: True
    plain = frozenset(pattern for pattern in patterns if not set("*?[") & set(pattern))
    if len(plain) == len(patterns):
        return plain.__contains__
    fits = re.compile("|".join(translate(pattern) for pattern in patterns if pattern not in plain)).match
    return lambda name: name in plain or fits(name) is not None
