"""The one folder below which callers may name files of the server."""

import os
from dataclasses import dataclass
from pathlib import Path

from narthex_server.errors import NarthexError, PermissionDenied, Violation, invalid
from narthex_server.pipelines.request import refuse

_LONGEST_PATH = 4096


@dataclass(frozen=True, slots=True)
class Root:
    """`what` lies below `folder` ("models"), which the option `flag` names; with None callers may name nothing."""

    folder: Path | None
    what: str
    flag: str

    def find(self, path: str) -> Path:
        """What a caller names. Errors: PermissionDenied without a folder, or outside of it; InvalidRequest."""
        if not 0 < len(path) <= _LONGEST_PATH or "\0" in path:
            refuse((Violation("path", f"must name a file or folder on the server in 1 to {_LONGEST_PATH} characters"),))
        if self.folder is None:
            raise PermissionDenied(
                f"this server loads no {self.what} for its callers; start it with {self.flag}",
                reason=f"{self.what.upper().removesuffix('S')}_ROOT_MISSING",
            )
        root = self.folder.resolve()
        try:
            found = (root / path).resolve()
            found.exists()
        except (OSError, ValueError, RuntimeError) as error:
            what = Violation("path", "is no name that a file or folder could have")
            raise invalid(what) from error
        if not found.is_relative_to(root):
            raise PermissionDenied(f"the path is outside the folder of {self.what}", reason="PATH_OUTSIDE_ROOT")
        return found

    def conceal(self, error: NarthexError, path: Path) -> NarthexError:
        """An error about `path` without its place: where a server keeps its files is no business of its callers."""
        root = self.folder.resolve() if self.folder else None
        folder = root if root and path.is_relative_to(root) else path.absolute().parent
        return _without(folder, error)


def _without(folder: Path, error: NarthexError) -> NarthexError:
    message = error.message.replace(f"{folder}{os.sep}", "").replace(str(folder), ".")
    return type(error)(message, reason=error.reason, metadata=error.metadata, violations=error.violations)
