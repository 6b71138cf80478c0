"""The models that are being served."""

from collections.abc import Iterator
from dataclasses import dataclass

from narthex_server.engine.handle import EngineHandle
from narthex_server.errors import InvalidRequest, NotFound
from narthex_server.text.assets import TextAssets


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Facts for people: the family, how many parameters, how they are stored and computed."""

    model_type: str = ""
    parameters: int = 0
    quantization: str = ""
    compute: str = ""


@dataclass(frozen=True, slots=True)
class TextModel:
    """A text model that is ready: its engine, and what it needs to read and write text."""

    name: str
    handle: EngineHandle
    text: TextAssets
    info: ModelInfo = ModelInfo()

    @property
    def max_context(self) -> int:
        """Tokens that prompt and completion may have together."""
        return self.handle.max_context


class Models:
    """Text models by name; an empty name is the default model, or the only one."""

    def __init__(self) -> None:
        self._models: dict[str, TextModel] = {}
        self._default = ""

    def add(self, model: TextModel, default: bool = False) -> None:
        """Serves `model` in place of one of the same name."""
        self._models[model.name] = model
        if default:
            self._default = model.name

    def remove(self, name: str) -> TextModel:
        """Ends serving a model; stopping its engine is the caller's business. Errors: NotFound."""
        model = self.get(name)
        del self._models[model.name]
        if self._default == model.name:
            self._default = ""
        return model

    def get(self, name: str = "") -> TextModel:
        """Errors: NotFound, listing what there is; InvalidRequest for an empty name that could mean several."""
        name = name or self.default
        if model := self._models.get(name):
            return model
        known = ", ".join(self._models) or "none"
        if not name and self._models:
            raise InvalidRequest(f"name one of the models: {known}", reason="MODEL_REQUIRED")
        what = f"there is no model {name!r}" if name else "this server has no model"
        raise NotFound(f"{what}; served are: {known}", reason="MODEL_NOT_FOUND", metadata={"model": name})

    @property
    def default(self) -> str:
        """The name that an empty one stands for; empty if there is none."""
        return self._default or (next(iter(self._models)) if len(self._models) == 1 else "")

    def __iter__(self) -> Iterator[TextModel]:
        return iter(tuple(self._models.values()))

    def __len__(self) -> int:
        return len(self._models)
