"""A session over the smallest golden model."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from narthex_server.engine.decoder import DecoderSession
from narthex_server.loading import LoadOptions, load

MODEL = Path(__file__).parents[2] / "golden" / "llama"


@pytest.fixture
def open_session(tmp_path: Path) -> Iterator[Callable[..., DecoderSession]]:
    opened: list[DecoderSession] = []

    def open_with(slots: int, max_len: int) -> DecoderSession:
        options = LoadOptions("float32", threads=1, slots=slots, max_context=max_len, cache_dir=tmp_path)
        opened.append(load(MODEL, options).session)
        return opened[-1]

    yield open_with
    for session in opened:
        session.close()
