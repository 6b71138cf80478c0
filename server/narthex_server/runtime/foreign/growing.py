"""A graph whose caches grow: past goes in, past and the new tokens' keys and values come out."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.runtime.foreign.ports import Ports, single_precision
from narthex_server.runtime.slot_cache import Numbers
from narthex_server.runtime.stepper import fetching_only

Caches = Mapping[str, Numbers]
"""By the name of the input."""


class GrowingGraph:
    """Runs one rectangle of tokens after caches that have one length."""

    def __init__(self, session: Any, ports: Ports) -> None:
        self._session = session
        self._ports = ports
        self._presents = [cache.present for cache in ports.caches]
        self._without_logits = fetching_only()

    def run(
        self, tokens: NDArray[np.int64], past: NDArray[np.int32], mask: NDArray[np.bool_], caches: Caches,
        rows: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], dict[str, Numbers]]:  # fmt: skip
        """Logits [B * R, vocab] of those columns of tokens [B, S], and the caches after them."""
        ports, length = self._ports, tokens.shape[1]
        kept = ports.kept(length, rows)
        feeds = {**ports.feeds(tokens, past, mask, kept), **caches}
        if len(rows):
            logits, *presents = self._session.run([ports.logits, *self._presents], feeds)
        else:
            logits = np.empty((len(tokens), kept, ports.vocab_size), np.float32)
            presents = self._session.run(self._presents, feeds, self._without_logits)
        grown = {cache.past: present for cache, present in zip(ports.caches, presents, strict=True)}
        wanted = logits[:, rows - (length - kept)].reshape(-1, ports.vocab_size)
        return single_precision(wanted), grown

    def close(self) -> None:
        self._session = None
