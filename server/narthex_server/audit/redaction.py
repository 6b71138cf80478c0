"""Arguments without what must not be kept: values under names, or that look, like credentials."""

import json
import re
from collections.abc import Iterable
from fnmatch import translate
from typing import Any

REDACTED = "[redacted]"
NAMES = (
    "*token*", "*password*", "*passwd*", "*passphrase*", "*secret*", "*authorization*", "*credential*", "*cookie*",
    "*apikey*", "*privatekey*", "*accesskey*",
)  # fmt: skip
"""Of members whose values are never kept; compared in lower case, without `_`, `-`, `.` and spaces."""

MAX_TEXT = 64 * 1024
"""Characters of a text that is looked through; of a longer one only its length is kept."""

_SEPARATORS = str.maketrans("", "", "_-. ")
_START = r"(?<![A-Za-z0-9_-])"  # so that no text is looked through twice
_VALUES = re.compile(
    "|".join(
        (
            r"(?is:-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*)",
            r"(?i:\bbearer[ ]{1,4}[A-Za-z0-9._~+/=-]{8,})",
            r"(?i:\bbasic[ ]{1,4}[A-Za-z0-9+/=]{16,})",
            rf"{_START}eyJ[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]{{8,}}\.[A-Za-z0-9_-]*",  # JSON Web Tokens
            rf"{_START}(?:sk|pk|rk|nx|ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[abeoprs]|npm|hf)[_-][A-Za-z0-9_-]{{16,}}",
            rf"{_START}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])",
            rf"{_START}AIza[A-Za-z0-9_-]{{35}}",
            r"(?<=://)[^/\s:@]{1,256}:[^/\s@]{1,256}(?=@)",  # of a URL
        )
    )
)


class Redaction:
    """Goes through values; `names` are further patterns of names, as NAMES."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        patterns = (translate(name.lower().translate(_SEPARATORS)) for name in (*NAMES, *names))
        self._names = re.compile("|".join(patterns))

    def of(self, value: Any) -> Any:
        """A copy of a parsed JSON value, whose depth is bounded, without what must not be kept."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {
                    self.text(name): REDACTED if self._hides(name) else self.of(item) for name, item in value.items()
                }
            case list():
                return [self.of(item) for item in value]
            case _:
                return value

    def written(self, value: Any) -> str:
        """As `of`, as JSON."""
        return json.dumps(self.of(value), separators=(",", ":"))

    def text(self, text: str) -> str:
        """A text without what looks like a credential."""
        if len(text) > MAX_TEXT:
            return f"[{len(text)} characters]"
        return _VALUES.sub(REDACTED, text)

    def _hides(self, name: str) -> bool:
        return self._names.match(name.lower().translate(_SEPARATORS)) is not None
