"""Who loads models and ends them."""

from typing import Any, Protocol

from narthex_server.pipelines.models import Model
from narthex_server.pipelines.order import Order
from narthex_server.progress import Progress


class Loader(Protocol):
    """Makes running models of files, and ends them."""

    def load(self, order: Order, progress: Progress) -> Any:
        """In a thread: read, build, start a session. Errors: those of loading, and what `progress` raises."""
        ...

    def start(self, name: str, loaded: Any) -> Model:
        """On the event loop: start the thread that runs what `load` gave."""
        ...

    async def stop(self, model: Model) -> None:
        """End the thread and free the memory; what the model says of itself stays readable."""
        ...
