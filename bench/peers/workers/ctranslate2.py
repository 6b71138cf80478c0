"""CTranslate2: a model of the file's shape with random weights in its own int8 format, written where it is missing."""

import time
from pathlib import Path

import ctranslate2
import numpy as np
from ctranslate2.specs import common_spec, transformer_spec

from bench.peers.workers.worker import Prompts, arguments, serve, start_afresh
from bench.shapes import HEAD, SHAPES, SPREAD, Shape


def write(folder: Path, shape: Shape) -> None:
    """Matrices in int8 with a scale for each row, embeddings tied to the output as in the file."""
    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int = shape.hidden) -> np.ndarray:
        return rng.standard_normal((rows, columns), np.float32) * SPREAD

    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        shape.layers, shape.heads, activation=common_spec.Activation.SWISH, pre_norm=True, ffn_glu=True, rms_norm=True,
        rotary_dim=0, rotary_interleave=False, rotary_base=shape.rope_base, num_heads_kv=shape.kv_heads,
    )  # fmt: skip
    decoder, ones = spec.decoder, np.ones(shape.hidden, np.float32)
    decoder.scale_embeddings = False
    decoder.embeddings.weight = decoder.projection.weight = matrix(shape.vocab)
    decoder.layer_norm.gamma = ones
    for layer in decoder.layer:
        attention, feed_forward = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = feed_forward.layer_norm.gamma = ones
        attention.linear[0].weight = matrix((shape.heads + 2 * shape.kv_heads) * HEAD)
        attention.linear[1].weight = matrix(shape.hidden, shape.heads * HEAD)
        feed_forward.linear_0.weight = matrix(shape.feed_forward)
        feed_forward.linear_0_noact.weight = matrix(shape.feed_forward)
        feed_forward.linear_1.weight = matrix(shape.hidden, shape.feed_forward)
    spec.register_vocabulary([str(number) for number in range(shape.vocab)])
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "1", "2", "0"
    spec.config.layer_norm_epsilon = 1e-5
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir(parents=True)
    spec.save(str(folder))


class CTranslate2:
    def __init__(self, folder: Path, threads: int) -> None:
        self._generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type="int8", inter_threads=1, intra_threads=threads
        )

    def generate(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        times: list[list[float]] = [[] for _ in prompts]

        def seen(step: ctranslate2.GenerationStepResult) -> bool:
            times[step.batch_id].append(time.perf_counter())
            return False

        self._generator.generate_batch(
            [[str(token) for token in prompt] for prompt in prompts], max_length=tokens, min_length=tokens,
            include_prompt_in_result=False, sampling_topk=1, callback=seen,
        )  # fmt: skip
        return times


def main() -> None:
    args = arguments(__doc__).parse_args()
    shape = args.model.stem.split("-")[0]
    folder = args.model.parent / f"{shape}-ctranslate2-int8"
    if not folder.exists():
        write(folder, SHAPES[shape])
        start_afresh()
    serve(lambda: CTranslate2(folder, args.threads))


if __name__ == "__main__":
    main()
