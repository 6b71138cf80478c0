"""The models that this server serves."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from narthex_server.engine.handle import EngineHandle
from narthex_server.errors import InvalidRequest, NotFound, Violation
from narthex_server.pipelines.chat import ChatPipeline
from narthex_server.pipelines.generate import GeneratePipeline


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A loaded model: what it is, its engine, and what can be done with it; `chat` is None without a chat template."""

    name: str
    architecture: str
    parameters: int
    compute: str
    ready: datetime
    engine: EngineHandle
    generate: GeneratePipeline
    chat: ChatPipeline | None


class Models:
    """The served models by name, in the order of the configuration."""

    def __init__(self, models: Iterable[ServedModel] = ()) -> None:
        self._models = {model.name: model for model in models}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def find(self, name: str) -> ServedModel:
        """The model of this name; an empty name means the only one.

        Raises NotFound, or InvalidRequest for an empty name where there are several.
        """
        if not name and len(self._models) == 1:
            return next(iter(self._models.values()))
        if (model := self._models.get(name)) is not None:
            return model
        known = ", ".join(self._models) or "none; this server only forwards tools"
        if not name and self._models:
            violation = Violation("spec.model", f"must be one of: {known}")
            raise InvalidRequest(f"say which model; this server has: {known}", violations=[violation])
        raise NotFound(
            f"there is no model named {name!r}; this server has: {known}",
            reason="MODEL_NOT_FOUND",
            metadata={"model": name[:200]},
        )
