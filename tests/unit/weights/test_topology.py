from pathlib import Path

import pytest
from narthex_server.errors import InvalidRequest
from narthex_server.weights.topology import Topology

NAME = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "topology.yml"
        path.write_text(text)
        return Topology.read(path)

    return read


def kind(topology, name):
    entry = topology.find(name)
    return None if entry is None else entry.kind


def test_ranges_begin_with_their_start_and_end_before_their_end(read):
    topology = read("0-2:\n  isq: q4k\n5:\n  isq: 8\n")
    kinds = [kind(topology, NAME.format(layer)) for layer in range(7)]
    assert kinds == ["Q4_K", "Q4_K", None, None, None, "Q8_0", None]


def test_of_overlapping_ranges_the_highest_end_wins_then_the_later_one(read):
    topology = read("2-6:\n  isq: q6k\n0-4:\n  isq: q4k\n1-4: {isq: q5k}\n")
    assert [kind(topology, NAME.format(layer)) for layer in range(6)] == ["Q4_K", "Q5_K", *["Q6_K"] * 4]


def test_expressions_win_over_ranges_and_later_ones_over_earlier_ones(read):
    topology = read("'/up_proj/': {isq: q4_0}\n'/layers\\.1\\.mlp/': {isq: q8_0}\n0-9: {isq: q6k}\n")
    assert kind(topology, NAME.format(0)) == "Q4_0"
    assert kind(topology, NAME.format(1)) == "Q8_0"
    assert kind(topology, "model.layers.1.self_attn.q_proj.weight") == "Q6_K"
    assert topology.find("lm_head.weight") is None


def test_an_entry_without_a_format_leaves_its_weights_as_they_are(read):
    topology = read("0-2:\n  device: cpu\n")
    assert topology.find(NAME.format(1)).kind is None
    assert topology.find(NAME.format(2)) is None


def test_an_empty_file_says_nothing(read):
    assert read("# nothing\n").find("lm_head.weight") is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("0-4:\n  isq: q7k\n", r"line 2: isq of 0-4: 'q7k' is none of q8_0, .*"),
        ("0-4:\n  isq: [1]\n", "line 2: isq of 0-4: '' is none of"),
        ("0-4:\n  device: cuda[0]\n", r"line 2: 0-4: layers cannot be put on device 'cuda\[0\]', only on cpu"),
        ("0-4:\n  isk: q4k\n", "line 2: 0-4: isk is neither isq nor device"),
        ("4-4:\n  isq: q4k\n", "line 1: 4-4 is empty"),
        ("0-4: {isq: q4k}\n0-4: {isq: q5k}\n", "line 2: 0-4 is there twice"),
        ("4-:\n  isq: q4k\n", "line 1: '4-' is neither a layer, nor a range"),
        ("first: {isq: q4k}\n", "line 1: 'first' is neither a layer"),
        ("'/(/': {isq: q4k}\n", "line 1: the regular expression .* cannot be read"),
        ("? [a]\n: {isq: q4k}\n", "line 1: a key must be a layer"),
        ("0-4: q4k\n", "line 1: a mapping is expected here"),
        ("- 1\n", "line 1: a mapping is expected here"),
        ("0-4: {isq: q4k\n", "not YAML"),
        ("a: &a [*a]\n", "line 1: 'a' is neither|line 1: a mapping"),
        ("[" * 100000, "not YAML"),
        ("0-4: !!python/object:os.system {isq: q4k}\n5-4: {}", "5-4 is empty"),
    ],
)
def test_what_cannot_be_used_is_told_with_its_line(read, text, complaint):
    with pytest.raises(InvalidRequest, match=complaint):
        read(text)


def test_a_large_or_missing_file_is_refused(read, tmp_path):
    with pytest.raises(InvalidRequest, match="at most 1048576 are read"):
        read("#" * (1 << 20) + "\n")
    with pytest.raises(InvalidRequest, match=r"none\.yml: cannot be read: No such file"):
        Topology.read(tmp_path / "none.yml")


def test_a_device_is_no_topology():
    with pytest.raises(InvalidRequest, match="/dev/zero: cannot be read: it is no file"):
        Topology.read(Path("/dev/zero"))
