"""What each protocol version does differently: the one place that knows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Era:
    """The rules of one protocol version.

    `batching`: arrays of messages are accepted. `annotations`, `titles`, `structured`: tools and results carry these
    members. `argument_errors_are_results`: arguments that do not fit are a result with isError, which the model sees,
    instead of a JSON-RPC error (SEP-1303). `resumable`: events have ids, and a client may come back for the rest of a
    stream. `polling`: it knows that the server may close a stream before its end, and takes an event without data.
    """

    version: str
    batching: bool = False
    annotations: bool = True
    titles: bool = True
    structured: bool = True
    argument_errors_are_results: bool = False
    resumable: bool = True
    polling: bool = False


# A stateless version (2026-07-28 on) is one more row, once requests that bring their version in _meta are served.
_TABLE = (
    Era("2024-11-05", annotations=False, titles=False, structured=False, resumable=False),
    Era("2025-03-26", batching=True, titles=False, structured=False),
    Era("2025-06-18"),
    Era("2025-11-25", argument_errors_are_results=True, polling=True),
)
ERAS = {era.version: era for era in _TABLE}
LATEST = _TABLE[-1]
VERSIONS = tuple(ERAS)


def negotiate(wanted: str) -> Era:
    """The era of an initialize: the wanted version, or the latest where it is not known."""
    return ERAS.get(wanted, LATEST)
