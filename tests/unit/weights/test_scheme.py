from typing import get_args

import numpy as np
import pytest
from narthex_server.config.server import Quantize
from narthex_server.weights.formats import BF16
from narthex_server.weights.kinds import KINDS, SPELLINGS, kind_named
from narthex_server.weights.scheme import Scheme, summary, unused
from narthex_server.weights.tensors import StoredTensor
from narthex_server.weights.topology import Topology

PROJECTION = "model.layers.0.mlp.up_proj.weight"


def tensor(name, *shape):
    return StoredTensor(name, shape, BF16, np.zeros((1, 2), np.uint8))


def chosen(scheme, name, *shape):
    choice = scheme.choose(tensor(name, *shape))
    return choice.format and choice.format.name


def topology(tmp_path, text):
    (tmp_path / "t.yml").write_text(text)
    return Topology.read(tmp_path / "t.yml")


def test_the_setting_takes_every_spelling():
    assert set(SPELLINGS) <= set(get_args(Quantize))


@pytest.mark.parametrize(("text", "kind"), [("q4_k", "Q4_K"), ("Q4K", "Q4_K"), ("8", "Q8_0"), ("q5_0", "Q5_0")])
def test_formats_have_several_spellings(text, kind):
    assert kind_named(text) == kind


def test_an_unknown_format_lists_the_known_ones():
    with pytest.raises(ValueError, match="is none of q8_0, q6_k"):
        kind_named("q7_k")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight", "embed_tokens.weight"])
def test_embeddings_and_head_are_kept_higher(kind, name):
    assert chosen(Scheme(kind), name, 1000, 512) == ("Q6_K" if kind in ("Q2_K", "Q3_K", "Q4_K") else "Q8_0")
    assert chosen(Scheme(kind), PROJECTION, 1000, 512) == kind


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("model.norm.weight", (512,), "not a matrix"),
        ("model.layers.0.mlp.experts.down_proj_bias", (32, 512), "not a matrix"),
        ("model.layers.0.conv.conv.weight", (512, 1, 3), "not a matrix"),
        ("model.layers.0.mlp.gate.weight", (8, 512), "small"),
        ("model.layers.0.block_sparse_moe.gate.weight", (8, 512), "small"),
        (PROJECTION, (512, 100), "no multiples of 32"),
    ],
)
def test_what_gains_little_or_cannot_stays_as_it_is(name, shape, reason):
    choice = Scheme("Q4_K").choose(tensor(name, *shape))
    assert choice.format is None
    assert reason in choice.reason


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.endswith("K")])
def test_rows_that_make_no_blocks_of_256_get_blocks_of_32(kind):
    instead = {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0"}.get(kind, "Q8_0")
    choice = Scheme(kind).choose(tensor(PROJECTION, 512, 96))
    assert choice.format.name == instead
    assert f"which {kind} needs" in choice.reason


def test_the_topology_goes_first_and_is_taken_by_its_word(tmp_path):
    scheme = Scheme("Q8_0", topology(tmp_path, "0: {isq: q4k}\n1: {}\n'/lm_head\\..*/': {isq: q4_0}\n"))
    assert chosen(scheme, PROJECTION, 256, 256) == "Q4_K"
    assert chosen(scheme, PROJECTION.replace("0", "1"), 256, 256) is None
    assert chosen(scheme, PROJECTION.replace("0", "2"), 256, 256) == "Q8_0"
    assert chosen(scheme, "lm_head.weight", 256, 256) == "Q4_0"
    assert chosen(scheme, "model.layers.0.input_layernorm.weight", 256) is None


def test_a_topology_alone_quantises_only_what_it_names(tmp_path):
    scheme = Scheme(None, topology(tmp_path, "0: {isq: q4k}\n"))
    assert chosen(scheme, PROJECTION, 256, 256) == "Q4_K"
    assert chosen(scheme, "lm_head.weight", 256, 256) is None


def test_entries_that_fit_nothing_are_found(tmp_path):
    found = unused(topology(tmp_path, "0-4: {isq: 4}\n'/lmhead/': {isq: 8}\n9: {}\n"), [PROJECTION, "lm_head.weight"])
    assert found == ["/lmhead/", "9"]


def test_one_line_says_what_happens_to_which_weights_and_why():
    tensors = [tensor(PROJECTION, 8, 256), tensor(PROJECTION.replace("0", "1"), 8, 256), tensor("model.norm.weight", 8)]
    choices = {one.name: Scheme("Q4_K").choose(one) for one in tensors}
    assert summary(choices) == "Q4_K: 2; as stored: 1 (not a matrix: model.norm.weight)"
