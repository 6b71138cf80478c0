"""What the faster ways to compute cost in quality: perplexity of a text, and how far the distribution of tokens moves.

    python -m bench quality [MODEL ...] [--tokens 512]

Each way reads the same text; the divergence is Kullback-Leibler, in nats, from the model's float32. Folders that are
not quantised are also read as Q8_0 and Q4_0. Random models (the golden ones) have no perplexity that means anything,
but they move like others.
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from narthex_server.errors import InvalidRequest
from narthex_server.loading import LoadOptions, load
from numpy.typing import NDArray

ROOT = Path(__file__).parent.parent
MODELS = (
    ROOT / "models/demo/tiny-tool-demo-q8_0.gguf",
    *(ROOT / "tests/golden" / name for name in ("llama", "qwen3", "gemma2", "phi3")),
)
TEXT = ROOT / "LICENSE"
CHUNK = 64
EXACT = LoadOptions("float32", threads=2, slots=1)
WAYS = {
    "float32": EXACT,
    "block8 (auto)": replace(EXACT, compute="auto"),
    "int8": replace(EXACT, compute="int8"),
    "int8 caches": replace(EXACT, kv="int8"),
    "int8, int8 caches": replace(EXACT, compute="int8", kv="int8"),
    "Q8_0": replace(EXACT, compute="auto", quantize="q8_0"),
    "Q4_0": replace(EXACT, compute="auto", quantize="q4_0"),
    "Q4_0, int8": replace(EXACT, compute="int8", quantize="q4_0"),
}


def log_probabilities(path: Path, options: LoadOptions) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Of every next token [T, vocab] after each of the text's tokens, and those tokens [T]; a prompt in chunks."""
    model = load(path, options)
    session = model.session
    try:
        ids = np.array(model.text.tokenizer.encode(TEXT.read_text(), add_special=True)[: options.max_context], np.int64)
        parts = []
        for past in range(0, len(ids), CHUNK):
            chunk = ids[past : past + CHUNK]
            parts.append(session.prefill(0, chunk, past, np.arange(len(chunk)), len(ids)).astype(np.float64))
        logits = np.concatenate(parts)
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True), ids
    finally:
        session.close()


def measure(path: Path, tokens: int) -> None:
    print(f"\n{path.name}\n{'':20}{'perplexity':>12}{'divergence':>12}{'worst':>10}{'same best':>11}")
    exact, ids = log_probabilities(path, replace(EXACT, max_context=tokens))
    for name, options in WAYS.items():
        try:
            found, _ = log_probabilities(path, replace(options, max_context=tokens))
        except InvalidRequest:  # quantised already
            continue
        perplexity = math.exp(-found[np.arange(len(ids) - 1), ids[1:]].mean())
        moved = (np.exp(exact) * (exact - found)).sum(axis=1)
        same = (exact.argmax(axis=1) == found.argmax(axis=1)).mean()
        print(f"{name:20}{perplexity:12.3f}{moved.mean():12.5f}{moved.max():10.4f}{same:11.3f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        "bench quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="*", type=Path, metavar="MODEL")
    parser.add_argument("--tokens", type=int, default=512)
    args = parser.parse_args()
    for path in args.models or MODELS:
        measure(path, args.tokens)
    return 0


if __name__ == "__main__":
    sys.exit(main())
