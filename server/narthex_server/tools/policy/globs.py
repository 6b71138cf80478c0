"""Shell-style patterns of names, compiled."""

import re
from collections.abc import Callable, Iterable
from fnmatch import translate

_SPECIAL = frozenset("*?[")

NameTest = Callable[[str], bool]


def names(patterns: Iterable[str]) -> NameTest:
    """Whether a name is one of these, or fits one with `*`, `?` or `[abc]`; case counts."""
    patterns = tuple(patterns)
    if "*" in patterns:
        return lambda name: True
    globs = [pattern for pattern in patterns if not _SPECIAL.isdisjoint(pattern)]
    plain = frozenset(patterns).difference(globs)
    if not globs:
        return plain.__contains__
    fits = re.compile("|".join(map(translate, globs))).match
    return lambda name: name in plain or fits(name) is not None
