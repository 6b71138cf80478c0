"""What each protocol version does differently: the one place that knows."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Era:
    """The rules of one protocol version.

    `stateless`: no handshake and no session; every request brings version and capabilities, every result says its type,
    and what a server wants of its client is a result too. `batching`: arrays of messages are accepted. `annotations`,
    `titles`, `icons`, `structured`: what tools, resources, prompts and results carry. `completions`: a capability of
    that name is declared. `argument_errors_are_results`: arguments that do not fit are a result with isError, which the
    model sees, instead of a JSON-RPC error (SEP-1303). `missing_resource`: the code of its error. `resumable`: events
    have ids, and a client may come back for the rest of a stream. `polling`: it knows that the server may close a
    stream before its end, and takes an event without data.
    """

    version: str
    stateless: bool = False
    batching: bool = False
    annotations: bool = True
    titles: bool = True
    icons: bool = True
    structured: bool = True
    completions: bool = True
    argument_errors_are_results: bool = False
    missing_resource: int = -32002
    resumable: bool = True
    polling: bool = False


# fmt: off
_TABLE = (
    Era("2024-11-05", annotations=False, titles=False, icons=False, structured=False, completions=False,
        resumable=False),
    Era("2025-03-26", batching=True, titles=False, icons=False, structured=False),
    Era("2025-06-18", icons=False),
    Era("2025-11-25", argument_errors_are_results=True, polling=True),
    Era("2026-07-28", stateless=True, argument_errors_are_results=True, missing_resource=-32602, resumable=False),
)
# fmt: on
ERAS = {era.version: era for era in _TABLE}
LATEST_SESSION = [era for era in _TABLE if not era.stateless][-1]
VERSIONS = tuple(reversed(ERAS))


def negotiate(wanted: str) -> Era:
    """The era of an initialize: the wanted version, or the latest with sessions where it is another."""
    era = ERAS.get(wanted, LATEST_SESSION)
    return LATEST_SESSION if era.stateless else era
