"""What each protocol version does differently: the one place that knows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Era:
    """The rules of one protocol version.

    `batching`: arrays of messages are accepted. `annotations`, `titles`, `structured`: tools and results carry these
    members. `argument_errors_are_results`: arguments that do not fit are a result with isError, which the model sees,
    instead of a JSON-RPC error (SEP-1303).
    """

    version: str
    batching: bool = False
    annotations: bool = True
    titles: bool = True
    structured: bool = True
    argument_errors_are_results: bool = False


# A stateless version (2026-07-28 on) is one more row, once requests that bring their version in _meta are served.
_TABLE = (
    Era("2024-11-05", annotations=False, titles=False, structured=False),
    Era("2025-03-26", batching=True, titles=False, structured=False),
    Era("2025-06-18"),
    Era("2025-11-25", argument_errors_are_results=True),
)
ERAS = {era.version: era for era in _TABLE}
LATEST = _TABLE[-1]
VERSIONS = tuple(ERAS)


def negotiate(wanted: str) -> Era:
    """The era of an initialize: the wanted version, or the latest where it is not known."""
    return ERAS.get(wanted, LATEST)
