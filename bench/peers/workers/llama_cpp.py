"""llama.cpp through its C interface: one llama_decode for all sequences of a step, the greatest logit by NumPy."""

import time
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from bench.peers.workers.worker import Prompts, arguments, serve

BATCH = 512
FLASH = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
}


class LlamaCpp:
    """Keeps what each sequence has in the cache, and computes only what a prompt does not share with it."""

    def __init__(self, path: Path, slots: int, size: int, threads: int, flash: str) -> None:
        llama_cpp.llama_backend_init()
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        params = llama_cpp.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_seq_max = slots * size, BATCH, slots
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH[flash]
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp made no context for {path}")
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._held: list[list[int]] = [[] for _ in range(slots)]

    def generate(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        times: list[list[float]] = []
        last = []
        for sequence, prompt in enumerate(prompts):
            last.append(self._prefill(sequence, list(prompt)))
            times.append([time.perf_counter()])
        for _ in range(tokens - 1):
            self._run([(token, len(self._held[at]), at, True) for at, token in enumerate(last)])
            for at, token in enumerate(last):
                self._held[at].append(token)
            last = [self._greatest(row) for row in range(len(last))]
            now = time.perf_counter()
            for each in times:
                each.append(now)
        return times

    def _prefill(self, sequence: int, prompt: list[int]) -> int:
        """Compute the prompt, and return the token after it."""
        held = self._held[sequence]
        pairs = zip(held, prompt[:-1], strict=False)
        shared = next((at for at, (old, new) in enumerate(pairs) if old != new), min(len(held), len(prompt) - 1))
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, shared, -1)
        for start in range(shared, len(prompt), BATCH):
            chunk = range(start, min(start + BATCH, len(prompt)))
            self._run([(prompt[at], at, sequence, at == len(prompt) - 1) for at in chunk])
        self._held[sequence] = list(prompt)
        return self._greatest(len(chunk) - 1)

    def _run(self, entries: list[tuple[int, int, int, bool]]) -> None:
        """One step over tokens, their positions, their sequences, and whether their logits are wanted."""
        batch = self._batch
        batch.n_tokens = len(entries)
        for at, (token, position, sequence, wanted) in enumerate(entries):
            batch.token[at], batch.pos[at], batch.logits[at] = token, position, wanted
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
        if code := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {code}")

    def _greatest(self, row: int) -> int:
        pointer = llama_cpp.llama_get_logits_ith(self._context, row)
        logits: NDArray[np.float32] = np.ctypeslib.as_array(pointer, (self._vocab,))
        return int(logits.argmax())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--flash", choices=FLASH, default="auto")
    args = parser.parse_args()
    serve(lambda: LlamaCpp(args.model, args.slots, args.size, args.threads, args.flash))


if __name__ == "__main__":
    main()
