import json
from pathlib import Path

import pytest
from narthex_server.errors import InvalidModelFile, NotFound
from narthex_server.loading import LoadOptions, load
from narthex_server.models import (
    families,
    gemma2,
    gemma3,
    gemma3_text,
    gpt_oss,
    granite,
    llama,
    mistral,
    mixtral,
    qwen2,
    qwen3,
    qwen3_5,
    qwen3_5_text,
    qwen3_moe,
    smollm3,
)

GOLDEN = Path(__file__).parents[2] / "golden"
FIELDS = {
    "num_attention_heads": 4, "num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 128, "vocab_size": 99,
    "max_position_embeddings": 512,
}  # fmt: skip


def test_every_supported_family_exports_what_loading_needs():
    assert {"llama", "mistral", "qwen2", "qwen3"} <= set(families.supported())
    assert not {"base", "families", "mixture"} & set(families.supported())
    for name in families.supported():
        family = families.family(name)
        assert callable(family.config)
        assert callable(family.model)


def test_an_unknown_family_is_told_what_to_write(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(InvalidModelFile, match=r"'mamba' is not supported.*llama.*models/mamba\.py") as caught:
        load(tmp_path, LoadOptions())
    assert caught.value.reason == "UNSUPPORTED_ARCHITECTURE"


@pytest.mark.parametrize(
    "name",
    [
        "llama", "llama3_rope_tied", "mistral_swa", "qwen2", "qwen3", "phi3", "phi3_longrope", "gemma2", "gemma3",
        "granite", "smollm3", "mixtral", "qwen3_moe", "lfm2", "gemma", "gemma3_vision", "qwen2_moe", "lfm2_moe",
        "olmo2", "starcoder2", "gpt_oss", "gpt_oss_mxfp4", "qwen3_next", "qwen3_5",
    ],
)  # fmt: skip
def test_both_spellings_of_a_config_mean_the_same(name):
    old, new = (json.loads((GOLDEN / name / file).read_text()) for file in ("config.v4.json", "config.json"))
    read = families.family(new["model_type"]).config
    assert read(old) == read(new)


def test_windows_follow_the_family_and_the_config():
    assert llama.CONFIG(FIELDS).windows == (None, None, None)
    assert mistral.CONFIG(FIELDS | {"sliding_window": 16}).windows == (16, 16, 16)
    assert mistral.CONFIG(FIELDS | {"sliding_window": None}).windows == (None, None, None)
    windowed = FIELDS | {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 2}
    assert qwen2.CONFIG(windowed).windows == (None, None, 16)
    assert qwen2.CONFIG(windowed | {"use_sliding_window": False}).windows == (None, None, None)
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    assert qwen3.CONFIG(windowed | {"layer_types": kinds}).windows == (16, None, 16)


def test_what_gemma3_leaves_out_is_what_its_first_files_leave_out():
    fields = {"text_config": {"hidden_size": 2560, "intermediate_size": 10240, "num_hidden_layers": 34}}
    config = gemma3.CONFIG(fields)
    assert (config.heads, config.kv_heads, config.head_dim, config.vocab, config.tied) == (8, 4, 256, 262208, True)
    assert [layer for layer, window in enumerate(config.windows) if window is None] == [5, 11, 17, 23, 29]
    assert config.attention_scale == 1 / 16 and config.final_softcap == 0


def test_what_gpt_oss_leaves_out_is_what_its_files_mean():
    config = gpt_oss.CONFIG(FIELDS | {"num_local_experts": 32, "num_experts_per_tok": 4})
    assert (config.head_dim, config.windows, config.swiglu.limit) == (64, (128, None, 128), 7.0)
    assert config.ropes[0].frequencies[1] == pytest.approx(150000 ** (-1 / 32))


def test_hybrids_attend_in_every_fourth_layer_and_rotate_a_quarter():
    config = qwen3_5_text.CONFIG(FIELDS | {"num_hidden_layers": 5})
    assert config.kinds == ("linear_attention",) * 3 + ("full_attention", "linear_attention")
    assert (config.head_dim, config.ropes[3].size, config.delta.keys, config.delta.values) == (256, 64, 2048, 4096)
    assert qwen3_5.CONFIG({"tie_word_embeddings": True, "text_config": FIELDS}).tied
    assert not qwen3_5.CONFIG({"text_config": FIELDS}).tied


def test_heads_of_delta_nets_must_share_keys_evenly():
    with pytest.raises(InvalidModelFile, match="6 heads of 128 linear values cannot share 4 of 128 keys"):
        qwen3_5_text.CONFIG(FIELDS | {"linear_num_key_heads": 4, "linear_num_value_heads": 6})
    with pytest.raises(InvalidModelFile, match="for each of 3 layers"):
        qwen3_5_text.CONFIG(FIELDS | {"layer_types": ["conv"] * 3})


def test_a_list_for_each_layer_must_name_each():
    with pytest.raises(InvalidModelFile, match="layer_types names 1 layers, the model has 3"):
        gemma2.CONFIG(FIELDS | {"layer_types": ["full_attention"]})
    with pytest.raises(InvalidModelFile, match="no_rope_layers names 2 layers, the model has 3"):
        smollm3.CONFIG(FIELDS | {"no_rope_layers": [1, 0]})


@pytest.mark.parametrize("family", [mixtral, qwen3_moe])
@pytest.mark.parametrize(
    "broken", [{}, {"num_experts_per_tok": "two"}, {"num_local_experts": [3]}, {"num_experts_per_tok": 5}]
)
def test_a_mixture_that_is_not_described_is_refused(family, broken):
    with pytest.raises(InvalidModelFile, match="config: "):
        family.CONFIG(FIELDS | {"num_local_experts": 4, "moe_intermediate_size": 8} | broken)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"vocab_size": None}, "config"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, not between 1 and 4096"),
        ({"head_dim": 10**9}, "head_dim is 1000000000"),
        ({"rope_parameters": 7}, "config"),
        ({"partial_rotary_factor": 1e8}, "partial_rotary_factor is 100000000.0, not above 0 and at most 1"),
        ({"partial_rotary_factor": -0.5}, "partial_rotary_factor is -0.5"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3 keys and values"),
        ({"hidden_act": "relu6"}, "hidden_act relu6 is not supported; supported are silu"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type dynamic is not supported"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rms_norm_eps": float("nan")}, "epsilon is nan, which is no finite number"),
        ({"rms_norm_eps": -1}, "epsilon is -1.0"),
        ({"rope_theta": -1}, "frequencies that are no finite numbers"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "config: "),
        ({"partial_rotary_factor": 1e12}, "partial_rotary_factor is 1000000000000.0, not above 0"),
        ({"partial_rotary_factor": -1}, "partial_rotary_factor is -1.0, not above 0"),
        ({"partial_rotary_factor": 0.01}, "partial_rotary_factor 0.01 rotates none of 16 values"),
    ],
)
def test_a_config_that_does_not_fit_says_why(fields, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        llama.CONFIG(FIELDS | fields)


@pytest.mark.parametrize("family", [gemma2, gemma3_text])
def test_scores_are_scaled_by_the_root_of_a_positive_number(family):
    assert family.CONFIG(FIELDS | {"query_pre_attn_scalar": 64}).attention_scale == 1 / 8
    with pytest.raises(InvalidModelFile, match="query_pre_attn_scalar is -64"):
        family.CONFIG(FIELDS | {"query_pre_attn_scalar": -64})


def test_logits_are_divided_by_some_number():
    with pytest.raises(InvalidModelFile, match="logits_scaling is 0"):
        granite.CONFIG(FIELDS | {"logits_scaling": 0})


@pytest.mark.parametrize(
    ("family", "fields", "complaint"),
    [
        (mistral, {"sliding_window": 2**70}, "sliding window is 1180591620717411303424, not between 1 and 2147483647"),
        (gemma2, {"sliding_window": -4}, "sliding window is -4"),
        (gemma2, {"query_pre_attn_scalar": -1}, "query_pre_attn_scalar is -1.0, not above 0"),
        (granite, {"logits_scaling": 0}, "logits_scaling is 0"),
        (granite, {"embedding_multiplier": float("inf")}, "embedding_multiplier is inf"),
        (gpt_oss, {"num_local_experts": 4, "swiglu_limit": -1}, "a gate cannot be clamped to -1.0"),
    ],
)
def test_numbers_that_no_graph_can_compute_with_are_refused(family, fields, complaint):
    with pytest.raises(InvalidModelFile, match=complaint):
        family.CONFIG(FIELDS | {"num_experts_per_tok": 2} | fields)


def test_a_path_without_a_model_is_named(tmp_path):
    with pytest.raises(NotFound, match="no model at"):
        load(tmp_path / "none", LoadOptions())
    with pytest.raises(InvalidModelFile, match="neither a GGUF or GGML file nor a folder"):
        load(tmp_path, LoadOptions())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"hidden_size": 32}, r"is \[512, 64\], the config says \[512, 32\]"), ({"num_hidden_layers": 4}, "is missing")],
)
def test_weights_that_contradict_the_config_are_named(tmp_path, change, complaint):
    for file in (GOLDEN / "llama").iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "config.json").unlink()
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(InvalidModelFile, match=complaint):
        load(tmp_path, LoadOptions("float32"))
