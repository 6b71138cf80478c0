"""Pages of a list in a stable order."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import TypeVar

from narthex_server.errors import InvalidRequest, Violation

Item = TypeVar("Item")

LARGEST = 500
MARK = "after:"


def page(items: Sequence[Item], key: Callable[[Item], str], size: int, token: str) -> tuple[Sequence[Item], str]:
    """The items after `token`, at most `size` (0: as many as we like), and the next token, empty at the end.

    A token names the last item seen, so a page stays right when the list changes between two of them.
    """
    ordered = sorted(items, key=key)
    if token:
        last = marked(token)
        ordered = [item for item in ordered if key(item) > last]
    size = min(size or LARGEST, LARGEST)
    more = len(ordered) > size
    return ordered[:size], mark(key(ordered[size - 1])) if more else ""


def mark(last: str) -> str:
    """The token of a page that goes on after the item of this name."""
    return urlsafe_b64encode((MARK + last).encode()).decode()


def marked(token: str) -> str:
    """What a token of `mark` names. Errors: InvalidRequest."""
    try:
        text = urlsafe_b64decode(token.encode()).decode()
    except ValueError:
        text = ""
    if not text.startswith(MARK):
        violation = Violation("page_token", "is not one that this server gave; leave it empty to start again")
        raise InvalidRequest("page_token is not one of ours", violations=[violation])
    return text.removeprefix(MARK)
