"""Write a Llama GGUF of random weights: what it says is noise, what it costs is real.

python -m bench make_gguf out.gguf --format Q8_0                   # 135M
python -m bench make_gguf out.gguf --format Q4_0 --shape 1b
python -m bench make_gguf out.gguf --format Q4_K_M --shape wide    # formats in blocks of 256 need a width to match
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from bench.shapes import HEAD, SHAPES, SPREAD, Shape

CONTEXT = 8192

HALVES: Mapping[Kind, Mapping[int, float]] = {
    Kind.Q4_1: {0: 1, 2: -7.5}, Kind.Q5_1: {0: 1, 2: -15.5}, Kind.Q2_K: {80: 1, 82: 1.5}, Kind.Q3_K: {108: 1},
    Kind.Q4_K: {0: 1, 2: 7.5}, Kind.Q5_K: {0: 1, 2: 15.5}, Kind.Q6_K: {208: 1},
}  # fmt: skip
"""Where blocks have float16 factors, with ratios by which a minimum centres the values; else one, at the start."""

FORMATS = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "Q4_K_M")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("path", type=Path)
    arguments.add_argument("--format", choices=FORMATS, default="Q8_0")
    arguments.add_argument("--shape", choices=SHAPES, default="135m")
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    write(options.path, options.format, SHAPES[options.shape], options.seed)
    return 0


def kind_of(name: str, tensor: str, layer: int, layers: int) -> Kind:
    """The format of one matrix; Q4_K_M is mixed as llama.cpp's quantiser does."""
    if name != "Q4_K_M":
        return Kind[name]
    eighth = layers // 8
    precise = layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2
    return Kind.Q6_K if tensor == "token_embd" or (tensor in ("attn_v", "ffn_down") and precise) else Kind.Q4_K


def write(path: Path, name: str, shape: Shape, seed: int = 0) -> None:
    """Write the file; matrices in the named format, norms in float32."""
    rng = np.random.default_rng(seed)
    width, kv_width = shape.heads * HEAD, shape.kv_heads * HEAD
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(f"random-{name.lower()}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(shape.rope_base)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(shape.vocab)
    add_tokenizer(writer, shape)

    def add(prefix: str, tensor: str, rows: int, columns: int, layer: int = 0) -> None:
        kind = kind_of(name, tensor, layer, shape.layers)
        writer.add_tensor(f"{prefix}{tensor}.weight", random_blocks(rng, kind, rows, columns), raw_dtype=kind)

    add("", "token_embd", shape.vocab, shape.hidden)
    norms = ["output_norm"]
    for layer in range(shape.layers):
        prefix = f"blk.{layer}."
        norms += [f"{prefix}attn_norm", f"{prefix}ffn_norm"]
        add(prefix, "attn_q", width, shape.hidden, layer)
        add(prefix, "attn_k", kv_width, shape.hidden, layer)
        add(prefix, "attn_v", kv_width, shape.hidden, layer)
        add(prefix, "attn_output", shape.hidden, width, layer)
        add(prefix, "ffn_gate", shape.feed_forward, shape.hidden, layer)
        add(prefix, "ffn_up", shape.feed_forward, shape.hidden, layer)
        add(prefix, "ffn_down", shape.hidden, shape.feed_forward, layer)
    for tensor in norms:
        writer.add_tensor(f"{tensor}.weight", np.ones(shape.hidden, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_blocks(rng: np.random.Generator, kind: Kind, rows: int, columns: int) -> NDArray[np.uint8]:
    """Random integers under scales that give weights a deviation of SPREAD: noise without the work of quantising."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, columns // block, size), dtype=np.uint8)
    ratios = HALVES.get(kind, {0: 1.0})

    def scaled(by: float) -> NDArray[np.uint8]:
        for at, ratio in ratios.items():
            blocks[..., at : at + 2] = np.array([ratio * by], np.float16).view(np.uint8)
        return blocks.reshape(rows, -1)

    deviation = float(gguf.dequantize(scaled(1.0)[:64], kind).std())
    return scaled(SPREAD / deviation)


def add_tokenizer(writer: gguf.GGUFWriter, shape: Shape) -> None:
    """A byte-level tokenizer with one merge: every byte is a token, the rest of the vocabulary is unused."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    tokens = [chr(byte) for byte in visible] + [chr(256 + index) for index in range(len(hidden))]
    tokens.append("th")
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    unused = [f"[UNUSED{index}]" for index in range(shape.vocab - len(specials) - len(tokens))]
    kinds = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.UNUSED] * len(unused)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(shape.pretokenizer)
    writer.add_token_list([*specials, *tokens, *unused])
    writer.add_token_types(kinds)
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
