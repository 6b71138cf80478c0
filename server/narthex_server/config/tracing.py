"""What the server's spans hold."""

from dataclasses import dataclass

from narthex.settings import option
from narthex.tracing.settings import Otel


@dataclass(frozen=True, slots=True)
class Tracing(Otel):
    """As Otel, with what only the server has."""

    arguments: bool = option(False, "put the arguments of tool calls into spans, without credentials")
