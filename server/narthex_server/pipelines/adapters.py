"""Adapters, from a folder into a running model."""

import asyncio
import os
import re
from pathlib import Path

from narthex_server.engine.adapters import AdapterInfo
from narthex_server.errors import InvalidModelFile, InvalidRequest, NotFound, PermissionDenied, Violation
from narthex_server.pipelines.models import Models, TextModel
from narthex_server.pipelines.request import refuse
from narthex_server.weights.adapters import read_adapter

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LONGEST_PATH = 4096


class AdapterLibrary:
    """Loads and unloads adapters; callers may name only folders below `root`, and none where it is None."""

    def __init__(self, models: Models, root: Path | None) -> None:
        self._models = models
        self._root = root.resolve() if root else None

    def list(self, model: str = "") -> tuple[tuple[TextModel, AdapterInfo], ...]:
        """The adapters of one model, or of all. Errors: NotFound."""
        models = [self._models.get(model)] if model else self._models.of(TextModel)
        return tuple((found, info) for found in models for info in found.handle.adapters)

    async def load_named(self, model: str, name: str, path: str) -> AdapterInfo:
        """Load what a caller names. Errors: PermissionDenied, InvalidRequest, and those of `load`."""
        if not 0 < len(path) <= _LONGEST_PATH or "\0" in path:
            refuse((Violation("path", f"must name a folder on the server in 1 to {_LONGEST_PATH} characters"),))
        if self._root is None:
            raise PermissionDenied(
                "this server loads no adapters for its callers; start it with --adapter-root",
                reason="ADAPTER_ROOT_MISSING",
            )
        try:
            folder = (self._root / path).resolve()
            folder.exists()
        except (OSError, ValueError) as error:
            what = Violation("path", "is no name that a folder could have")
            raise InvalidRequest(f"{what.field} {what.description}", violations=[what]) from error
        if not folder.is_relative_to(self._root):
            raise PermissionDenied("the path is outside the folder of adapters", reason="PATH_OUTSIDE_ROOT")
        try:
            return await self.load(model, name, folder)
        except (NotFound, InvalidModelFile) as error:
            # Where the server keeps its adapters is no business of its callers.
            message = error.message.replace(f"{self._root}{os.sep}", "").replace(str(self._root), ".")
            raise type(error)(message, reason=error.reason, metadata=error.metadata) from error

    async def load(self, model: str, name: str, folder: Path) -> AdapterInfo:
        """Load a PEFT folder. Errors: NotFound, InvalidRequest, InvalidModelFile, and those of the engine."""
        if not _NAME.fullmatch(name):
            refuse((Violation("name", "must be 1 to 128 of letters, digits, `_`, `-` and `.`"),))
        handle = self._models.get(model).handle
        weights = await asyncio.to_thread(read_adapter, folder)
        info = AdapterInfo(name, weights.rank, weights.scale)
        await handle.load_adapter(info, weights)
        return info

    async def unload(self, model: str, name: str) -> None:
        """Remove an adapter after the requests that use it. Errors: NotFound."""
        await self._models.get(model).handle.unload_adapter(name)
