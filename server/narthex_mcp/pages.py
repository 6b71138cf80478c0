"""HTML as the text that a reader sees."""

import html
import re
from collections.abc import Iterator

_UNSEEN = frozenset(("script", "style", "template", "noscript", "svg", "title"))
_BLOCKS = frozenset((
    "p", "div", "br", "li", "tr", "td", "th", "dt", "dd", "pre", "section", "article", "blockquote",
    "h1", "h2", "h3", "h4", "h5", "h6",
))  # fmt: skip
_NAME = re.compile(r"</?([a-z][a-z0-9]*)")
_TITLE = re.compile(r"<title\b[^<>]*>([^<]{0,2000})<", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


def title_of(page: str) -> str:
    """The title of a page, or nothing."""
    found = _TITLE.search(page[:100_000])
    return _SPACE.sub(" ", _unescaped(found[1])).strip() if found else ""


def text_of_page(page: str) -> str:
    """The text of a page, a line for each block; in one pass, however broken the page is."""
    text = _unescaped("".join(_pieces(page)))
    lines = (_SPACE.sub(" ", line).strip() for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _unescaped(text: str) -> str:
    try:
        return html.unescape(text)
    except ValueError:  # a number with more digits than Python reads
        return text


def _pieces(page: str) -> Iterator[str]:
    lower = page.lower() if len(page.lower()) == len(page) else page
    at = 0
    while (tag := page.find("<", at)) >= 0:
        yield page[at:tag].replace("\n", " ")
        if page.startswith("<!--", tag):
            end = page.find("-->", tag + 4)
            at = end + 3
        else:
            end = page.find(">", tag)
            at = end + 1
        if end < 0:  # what is left open hides the rest
            return
        name = found[1] if (found := _NAME.match(lower, tag)) else ""
        if name in _BLOCKS:
            yield "\n"
        if name in _UNSEEN and not page.startswith("</", tag):
            at = lower.find(f"</{name}", at)
            if at < 0:
                return
    yield page[at:].replace("\n", " ")
