"""How large a model's keys and values become, found by reading a text of many kinds: int8 caches are scaled by it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.graph.peaks import Peaks
from narthex_server.runtime.session import OrtDecoderSession
from narthex_server.text.tokenizer import Tokenizer

TOKENS = 1024
MARGIN = 1.2
"""The text does not hold everything; what goes beyond is cut off."""
SMALLEST = 1e-6

TEXT = """The porch was full of people who waited for the rain to end. A woman read the timetable aloud: 07:45, 08:10.
"Is that today?" asked the boy. Nobody knew. Far below, the river carried branches, a blue door, half a boat, and once
a dog that swam as if it had somewhere to be. In 1887 the bridge had stood 14.5 metres above the water.

Dear Sir or Madam, thank you for your letter of 3 March. We regret that order no. 40-2291 (two lamps, 230 V, 60 W) has
been delayed; please find our terms enclosed, and accept our apologies. Yours faithfully, the accounts department.

def mean(values: list[float]) -> float:
    if not values:
        raise ValueError("no values")
    return sum(values) / len(values)  # the arithmetic mean

{"name": "weather", "arguments": {"city": "Reykjavík", "days": 3, "units": ["C", "km/h"], "detail": null, "now": true}}
SELECT customer, COUNT(*) AS orders FROM sales WHERE day >= '2024-01-01' GROUP BY customer ORDER BY orders
DESC LIMIT 10;

Die Fähre legt um halb sieben ab. ¿Dónde está la biblioteca? Il pleut depuis trois jours. 今日はいい天気ですね。 Привет,
как дела?
If f(x) = 3x^2 - 2x + 1, then f'(x) = 6x - 2, and the least value is at x = 1/3. Therefore the answer is 2/3,
as claimed.
1. Peel the potatoes. 2. Boil them for 20 minutes in salted water. 3. Drain, mash, and add butter, milk and a
little nutmeg.
"""


def peaks(session: OrtDecoderSession, tokenizer: Tokenizer) -> Mapping[int, Peaks]:
    """The maxima of every layer after the text; the session's caches are float32, and its first slot is used."""
    text = [token for token in tokenizer.encode(TEXT, add_special=True) if token < session.vocab_size]
    # Words that the text lacks may be extreme: as many tokens are drawn from all that there are.
    drawn = np.random.default_rng(0).integers(session.vocab_size, size=TOKENS).tolist()
    half = min(TOKENS, session.max_len) // 2
    ids = [*text[:half], *drawn[: max(half, 1)]]
    session.prefill(0, np.array(ids, np.int64), 0, np.array([], np.int64), len(ids))
    cached = session.cached(0, len(ids))

    def peak(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        largest: NDArray[np.float32] = np.abs(values).max(axis=1) * np.float32(MARGIN)
        return np.maximum(largest, np.float32(SMALLEST))

    def layer_peaks(keys: NDArray[np.floating[Any]], values: NDArray[np.floating[Any]]) -> Peaks:
        half = keys.shape[-1] // 2
        return Peaks(peak(keys), peak(np.hypot(keys[..., :half], keys[..., half:])), peak(values))

    layers = [int(name.removeprefix("key.")) for name in cached if name.startswith("key.")]
    return {layer: layer_peaks(cached[f"key.{layer}"], cached[f"value.{layer}"]) for layer in layers}
