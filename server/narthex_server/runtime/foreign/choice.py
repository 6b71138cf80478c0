"""Which session suits a graph: tried on a few tokens, because only running it tells whether its rows can be batched."""

import logging
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.runtime.foreign.in_place import InPlaceSession
from narthex_server.runtime.foreign.padded import PaddedSession
from narthex_server.runtime.foreign.ports import Ports
from narthex_server.runtime.foreign.single import SingleSession
from narthex_server.runtime.session import Shape
from narthex_server.runtime.stepper import open_session

_log = logging.getLogger(__name__)
ForeignSession = InPlaceSession | PaddedSession | SingleSession

_LONG, _SHORT, _STEPS = 12, 3, 2
"""Tokens of the two trial prompts, far enough apart for a wrong position to show, and how many follow each."""
_NOISE = 0.1
"""Of the logits' deviation. Float16 moves them by 0.002 between batches, a row at wrong positions by more than 1."""


class _Kind(Protocol):
    def __call__(self, session: Any, ports: Ports, shape: Shape) -> ForeignSession: ...


def open_foreign(graph: Path, ports: Ports, shape: Shape) -> ForeignSession:
    """Start a graph; rows are batched where two give together what they give alone.

    InvalidModelFile where ONNX Runtime refuses the graph, or cannot run it on a few tokens.
    """
    try:
        session = open_session(graph, shape.threads)
        single = SingleSession(session, ports, shape)
        alone = _trial(single)
    except Exception as error:  # the runtime has a class of its own for every status, and no common one
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InvalidModelFile(f"{graph}: ONNX Runtime cannot run the graph: {reason}") from error
    for kind in _batching(ports):
        batching = kind(session, ports, shape)
        try:
            apart = float(np.abs(_trial(batching) - alone).max() / max(alone.std(), 1e-6))
        except Exception as error:
            _log.info("%s: %s does not fit: %s", graph, type(batching).__name__, error)
            continue
        if apart <= _NOISE:
            return batching
        _log.info("%s: %s moves logits by %.2g deviations", graph, type(batching).__name__, apart)
    return single


def _batching(ports: Ports) -> list[_Kind]:
    """The ways to batch rows that are worth a trial, best first."""
    if ports.mask is None or ports.branch is not None:
        return []
    return [InPlaceSession, PaddedSession] if ports.in_place else [PaddedSession]


def _trial(session: ForeignSession) -> NDArray[np.float32]:
    """Two prompts, one of them in chunks, and steps that continue both; all logits on the way [N, vocab]."""
    long = max(min(_LONG, session.max_len - _STEPS), 2)
    lengths = np.array([long, min(_SHORT, long)], np.int32)[: session.slots]
    tokens = (np.arange(_LONG + _STEPS) * 31 + 7) % session.vocab_size
    none, live = np.zeros(0, np.int64), np.arange(len(lengths))
    cut = long // 2
    session.prefill(0, tokens[:cut], 0, none, long)
    logits = [session.prefill(0, tokens[cut:long], cut, np.array([long - cut - 1]), long).copy()]
    for slot, length in enumerate(lengths.tolist()[1:], start=1):
        logits.append(session.prefill(slot, tokens[:length], 0, np.array([length - 1]), length).copy())
    for step in range(_STEPS):
        logits.append(session.decode(0, tokens[lengths + step], lengths + np.int32(step), live).copy())
    for slot in live.tolist():
        session.release(slot)
    return np.concatenate(logits)
