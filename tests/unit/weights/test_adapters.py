import json
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile, NotFound
from narthex_server.weights.adapters import read_adapter
from narthex_server.weights.xlora import read_xlora
from safetensors.numpy import save_file

XLORA = Path(__file__).parents[2] / "golden" / "xlora_llama"
A, B = np.ones((2, 8), np.float32), np.ones((6, 2), np.float32)
Q = "base_model.model.model.layers.0.self_attn.q_proj"
FACTORS = {f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B}
CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 8}


@pytest.fixture
def write(tmp_path):
    def write(config=CONFIG, factors=FACTORS):
        (tmp_path / "adapter_config.json").write_text(config if isinstance(config, str) else json.dumps(config))
        save_file(factors, tmp_path / "adapter_model.safetensors")
        return tmp_path

    return write


def test_factors_come_with_their_scale(write):
    adapter = read_adapter(write())
    assert (adapter.rank, adapter.scale, list(adapter.modules)) == (2, 4.0, ["model.layers.0.self_attn.q_proj"])
    low_rank = adapter.modules["model.layers.0.self_attn.q_proj"]
    np.testing.assert_array_equal(low_rank.b.T @ low_rank.a, 4 * B @ A)


@pytest.mark.parametrize("spelling", ["{}.lora_A.weight", "{}.lora_A.default.weight"])
def test_the_adapters_name_in_a_tensors_name_is_ignored(write, spelling):
    named = {spelling.format(Q): A, spelling.format(Q).replace("lora_A", "lora_B"): B}
    assert list(read_adapter(write(factors=named)).modules) == ["model.layers.0.self_attn.q_proj"]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (CONFIG | {"peft_type": "IA3"}, "adapters of type IA3 are not supported"),
        (CONFIG | {"use_dora": True}, "use_dora is not supported; merge the adapter"),
        (CONFIG | {"modules_to_save": ["lm_head"]}, "modules_to_save is not supported"),
        (CONFIG | {"bias": "all"}, "bias all is not supported"),
        ({"peft_type": "LORA", "r": 2}, "lora_alpha is missing"),
        (CONFIG | {"lora_alpha": "many"}, "could not convert"),
        (CONFIG | {"alpha_pattern": {"q_proj": float("nan")}}, "must be finite"),
        (CONFIG | {"alpha_pattern": {"(": 2}}, "'\\(' cannot be read"),
        (CONFIG | {"alpha_pattern": {"(.*.*)*x": 2}}, "none of a group"),
        (CONFIG | {"alpha_pattern": {".*.*.*.*x": 2}}, "3 repetitions"),
        (CONFIG | {"alpha_pattern": {"(" * 5000: 2}}, "256 characters"),
        (CONFIG | {"alpha_pattern": {str(i): 2 for i in range(5000)}}, "5000 entries, more than 4096"),
        (CONFIG | {"lora_alpha": 10**400}, "too large"),
    ],
)
def test_a_configuration_that_cannot_be_served_says_why(write, config, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        read_adapter(write(config))


@pytest.mark.parametrize(
    ("factors", "complaint"),
    [
        ({}, "there are no factors"),
        ({f"{Q}.lora_A.weight": A}, "has only factor A of two"),
        ({f"{Q}.lora_A.weight": A, f"{Q}.lora_B.weight": B[:, :1]}, r"factors \[2, 8\] and \[6, 1\] do not meet"),
        ({f"{Q}.lora_A.weight": A[:0], f"{Q}.lora_B.weight": B[:, :0]}, "do not meet"),
        ({f"{Q}.weight": A}, "is not a factor of a LoRA"),
        ({f"{Q}.lora_A.weight": A[0]}, "is not a factor of a LoRA"),
    ],
)
def test_factors_that_do_not_fit_are_named(write, factors, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        read_adapter(write(factors=factors))


def test_what_is_not_there_is_told_apart_from_what_is_not_an_adapter(tmp_path):
    with pytest.raises(NotFound, match="no adapter at"):
        read_adapter(tmp_path / "none")
    with pytest.raises(InvalidModelFile, match=r"adapter_config\.json is missing"):
        read_adapter(tmp_path)


def test_both_layouts_of_an_xlora_hold_the_same():
    ours, legacy = read_xlora(XLORA / "xlora"), read_xlora(XLORA / "xlora_legacy")
    assert ours.modules == legacy.modules == tuple(json.loads((XLORA / "golden.json").read_text())["layer_order"])
    for one, other in zip(ours.layers, legacy.layers, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def xlora_folder(tmp_path, change, classifier=None):
    for name in ("expert_0", "expert_1"):
        (tmp_path / name).symlink_to(XLORA / name)
    folder = tmp_path / "xlora"
    folder.mkdir()
    config = json.loads((XLORA / "xlora" / "adapter_config.json").read_text()) | change
    (folder / "adapter_config.json").write_text(json.dumps(config))
    if classifier is None:
        (folder / "adapter_model.safetensors").symlink_to(XLORA / "xlora" / "adapter_model.safetensors")
    else:
        save_file(classifier, folder / "adapter_model.safetensors")
    return folder


LAYER = "base_model.internal_xlora_classifier.layers"


@pytest.mark.parametrize(
    ("change", "classifier", "complaint"),
    [
        ({"peft_type": "LORA"}, None, "peft_type is LORA, not XLORA"),
        ({"adapters": {}}, None, "adapters must name the experts"),
        ({"layerwise_scalings": False}, None, "gives 18 scalings, but 2 experts in 1 modules need 2"),
        ({}, {"x": A}, "there is no classifier in it"),
        ({}, {f"{LAYER}.0.bias": A[0]}, "layer 0 of the classifier has no weight matrix"),
        ({}, {f"{LAYER}.0.weight": A, f"{LAYER}.2.weight": A}, "layers of the classifier do not meet"),
        ({}, {f"{LAYER}.0.weight": A, f"{LAYER}.0.bias": A[0]}, "layer 0 of the classifier has a bias"),
    ],
)
def test_an_xlora_that_does_not_fit_says_why(tmp_path, change, classifier, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        read_xlora(xlora_folder(tmp_path, change, classifier))


@pytest.mark.parametrize("ordering", [{"order": 7}, {"layers": [1]}, {"layers": {"a": None}}, {"layers": {"a": "x"}}])
def test_an_ordering_that_orders_nothing_is_refused(tmp_path, ordering):
    folder = xlora_folder(tmp_path, {})
    (folder / "ordering.json").write_text(json.dumps(ordering))
    with pytest.raises(InvalidModelFile, match="order must list the experts, and layers number the modules"):
        read_xlora(folder)


def test_a_missing_expert_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"no adapter at .*gone"):
        read_xlora(xlora_folder(tmp_path, {"adapters": {"0": "../gone"}}))
