"""Write a Llama GGUF of SmolLM2-135M's shape with random weights: what it says is noise, what it costs is real.

python bench/make_gguf.py out.gguf --format Q8_0
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FEED_FORWARD, VOCAB, CONTEXT = 576, 30, 9, 3, 64, 1536, 49152, 8192
SPREAD = 0.03
FORMATS = {"Q8_0": (gguf.GGMLQuantizationType.Q8_0, 34, 73.6), "Q4_0": (gguf.GGMLQuantizationType.Q4_0, 18, 4.6)}
"""Type, bytes of a block of 32, and the standard deviation of its uniformly random integers."""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("path", type=Path)
    arguments.add_argument("--format", choices=FORMATS, default="Q8_0")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    write(options.path, options.format, np.random.default_rng(options.seed))
    return 0


def write(path: Path, name: str, rng: np.random.Generator) -> None:
    """Write the file; matrices in the named format, norms in float32."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random-135m-{name.lower()}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(100_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(VOCAB)
    add_tokenizer(writer)

    matrices = {"token_embd": (VOCAB, HIDDEN)}
    norms = ["output_norm"]
    for layer in range(LAYERS):
        prefix = f"blk.{layer}"
        norms += [f"{prefix}.attn_norm", f"{prefix}.ffn_norm"]
        matrices |= {
            f"{prefix}.attn_q": (HEADS * HEAD, HIDDEN),
            f"{prefix}.attn_k": (KV_HEADS * HEAD, HIDDEN),
            f"{prefix}.attn_v": (KV_HEADS * HEAD, HIDDEN),
            f"{prefix}.attn_output": (HIDDEN, HEADS * HEAD),
            f"{prefix}.ffn_gate": (FEED_FORWARD, HIDDEN),
            f"{prefix}.ffn_up": (FEED_FORWARD, HIDDEN),
            f"{prefix}.ffn_down": (HIDDEN, FEED_FORWARD),
        }
    for tensor, shape in matrices.items():
        writer.add_tensor(f"{tensor}.weight", random_blocks(rng, name, shape), raw_dtype=FORMATS[name][0])
    for tensor in norms:
        writer.add_tensor(f"{tensor}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(rng: np.random.Generator, name: str, shape: tuple[int, int]) -> NDArray[np.uint8]:
    """Random integers under one scale: quantised noise without the work of quantising."""
    _, size, deviation = FORMATS[name]
    blocks = rng.integers(0, 256, (shape[0], shape[1] // 32, size), dtype=np.uint8)
    blocks[..., :2] = np.array([SPREAD / deviation], np.float16).view(np.uint8)
    return blocks.reshape(shape[0], -1)


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    """A byte-level tokenizer without merges: every byte is a token, the rest of the vocabulary is unused."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    tokens = [chr(byte) for byte in visible] + [chr(256 + index) for index in range(len(hidden))]
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    unused = [f"[UNUSED{index}]" for index in range(VOCAB - len(specials) - len(tokens))]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.UNUSED] * len(unused)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list([*specials, *tokens, *unused])
    writer.add_token_types(kinds)
    writer.add_token_merges([])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
