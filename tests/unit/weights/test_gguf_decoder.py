import numpy as np
import pytest
from narthex_server.weights.gguf_decoder import halves_from_pairs, huggingface_name


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output.weight", "lm_head.weight"),
        ("blk.11.attn_q.bias", "model.layers.11.self_attn.q_proj.bias"),
        ("blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"),
        ("rope_freqs.weight", None),
        ("blk.0.ffn_gate_inp.weight", None),
    ],
)
def test_names_are_translated(name, wanted):
    assert huggingface_name(name) == wanted


def test_the_order_of_rows_undoes_the_converters_permutation():
    rows, heads = 24, 3
    original = np.arange(rows)
    permuted = original.reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)  # as llama.cpp's converter does
    np.testing.assert_array_equal(permuted[halves_from_pairs(rows, heads)], original)
