"""Adapters, from a folder into a running model."""

import asyncio
import logging
import re
from pathlib import Path

from narthex_server.engine.adapters import AdapterInfo
from narthex_server.errors import InvalidModelFile, NarthexError, NotFound, Violation
from narthex_server.pipelines.models import Models, TextModel
from narthex_server.pipelines.request import refuse
from narthex_server.pipelines.root import Root
from narthex_server.weights.adapters import read_adapter

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")

_log = logging.getLogger(__name__)


class AdapterLibrary:
    """Loads and unloads adapters; callers may name only folders below `root`, and none where it is None."""

    def __init__(self, models: Models, root: Path | None) -> None:
        self._models = models
        self._root = Root(root, "adapters", "--adapter-root")

    def list(self, model: str = "") -> tuple[tuple[TextModel, AdapterInfo], ...]:
        """The adapters of one model, or of all. Errors: NotFound."""
        models = [self._models.local(model)] if model else [one for one in self._models if isinstance(one, TextModel)]
        return tuple((found, info) for found in models for info in found.handle.adapters)

    async def load_named(self, model: str, name: str, path: str) -> AdapterInfo:
        """Load what a caller names. Errors: PermissionDenied, InvalidRequest, and those of `load`."""
        folder = self._root.find(path)
        try:
            return await self.load(model, name, folder)
        except (NotFound, InvalidModelFile) as error:
            raise self._root.conceal(error, folder) from error

    async def load(self, model: str, name: str, folder: Path) -> AdapterInfo:
        """Load a PEFT folder. Errors: NotFound, InvalidRequest, InvalidModelFile, and those of the engine."""
        if not _NAME.fullmatch(name):
            refuse((Violation("name", "must be 1 to 128 of letters, digits, `_`, `-` and `.`"),))
        async with self._models.use_local(model) as used:
            info = await _load(used, name, folder)
            used.adapters[name] = folder
        return info

    async def unload(self, model: str, name: str) -> None:
        """Remove an adapter after the requests that use it. Errors: NotFound."""
        async with self._models.use_local(model) as used:
            await used.handle.unload_adapter(name)
            used.adapters.pop(name, None)


async def restore(model: TextModel, before: TextModel) -> None:
    """Load the adapters that a model had before it left the memory; the log names those that cannot be loaded again."""
    for name, folder in before.adapters.items():
        try:
            await _load(model, name, folder)
        except NarthexError as error:
            _log.warning("adapter %s of %s is lost: %s", name, model.name, error.message)
        else:
            model.adapters[name] = folder


async def _load(model: TextModel, name: str, folder: Path) -> AdapterInfo:
    weights = await asyncio.to_thread(read_adapter, folder)
    info = AdapterInfo(name, weights.rank, weights.scale)
    await model.handle.load_adapter(info, weights)
    return info
