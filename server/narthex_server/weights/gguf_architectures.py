"""In what the architectures of GGUF files differ: names of tensors, order of rows, and fields of their configs.

The facts are those of llama.cpp's converter: what it calls a tensor, and what it does to the values.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from narthex_server.weights.gguf_metadata import ArchitectureMetadata

Fields = dict[str, Any]
Names = Mapping[str, str]

_OUTER: Names = MappingProxyType({"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"})
_ATTENTION: Names = MappingProxyType(
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
    }
)
_GATED: Names = MappingProxyType(
    {
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
)
_STANDARD: Names = MappingProxyType({**_ATTENTION, **_GATED})
_SANDWICH: Names = MappingProxyType(
    {
        "post_attention_norm": "post_attention_layernorm",
        "ffn_norm": "pre_feedforward_layernorm",
        "post_ffw_norm": "post_feedforward_layernorm",
    }
)
_LFM2: Names = MappingProxyType(
    {
        **_ATTENTION,
        "attn_norm": "operator_norm",
        "attn_output": "self_attn.out_proj",
        "attn_q_norm": "self_attn.q_layernorm",
        "attn_k_norm": "self_attn.k_layernorm",
        "shortconv.conv": "conv.conv",
        "shortconv.in_proj": "conv.in_proj",
        "shortconv.out_proj": "conv.out_proj",
        "ffn_norm": "ffn_norm",
        "ffn_gate": "feed_forward.w1",
        "ffn_up": "feed_forward.w3",
        "ffn_down": "feed_forward.w2",
    }
)


def _expert_names(block: str, gate: str, up: str, down: str) -> Names:
    """The router, and the experts: `#` is the number of one."""
    return {
        "ffn_gate_inp": f"{block}.gate",
        "ffn_gate_exps": f"{block}.experts.#.{gate}",
        "ffn_up_exps": f"{block}.experts.#.{up}",
        "ffn_down_exps": f"{block}.experts.#.{down}",
    }


_QWEN_EXPERTS: Names = MappingProxyType(
    {
        **_expert_names("mlp", "gate_proj", "up_proj", "down_proj"),
        "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
        "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
        "ffn_up_shexp": "mlp.shared_expert.up_proj",
        "ffn_down_shexp": "mlp.shared_expert.down_proj",
    }
)


_GPT_OSS: Names = MappingProxyType(
    {
        **_ATTENTION,
        **_expert_names("mlp", "gate_proj", "up_proj", "down_proj"),
        "ffn_gate_inp": "mlp.router",
        "attn_sinks": "self_attn.sinks",
        "post_attention_norm": "post_attention_layernorm",
    }
)
BARE = ("expert_bias", "sinks")
"""Tensors whose Hugging Face names do not say whether they are weights or biases."""


def _nothing(_: ArchitectureMetadata) -> Fields:
    return {}


@dataclass(frozen=True, slots=True)
class Architecture:
    """One kind of model: `layer` and `outer` translate names, `fields` gives what its config has besides the usual.

    `pairs`: rows of Q and K are in the order that rotates neighbours, not halves. `centred_norms`: the file holds
    1 + w where Hugging Face has w.
    """

    model_type: str
    layer: Names = field(default_factory=lambda: _STANDARD)
    outer: Names = field(default_factory=lambda: _OUTER)
    pairs: bool = False
    centred_norms: bool = False
    fields: Callable[[ArchitectureMetadata], Fields] = _nothing


def architecture_of(metadata: ArchitectureMetadata) -> Architecture:
    """The architecture of a file; one that is not known is taken for a standard decoder under its own name."""
    name = metadata.architecture
    if name == "llama" and metadata.integer("expert_count", 0):
        return _MIXTRAL
    if name == "llama" and metadata.integer("attention.sliding_window", 0):
        return _MISTRAL
    return _ARCHITECTURES.get(name) or Architecture(name)


def _window(metadata: ArchitectureMetadata) -> Fields:
    return {"sliding_window": metadata.integer("attention.sliding_window", 0) or None}


def _qwen(metadata: ArchitectureMetadata) -> Fields:
    window = _window(metadata)
    return {**window, "use_sliding_window": window["sliding_window"] is not None, "max_window_layers": 0}


def _experts(metadata: ArchitectureMetadata) -> Fields:
    return {
        "num_experts": metadata.integer("expert_count"),
        "num_local_experts": metadata.integer("expert_count"),
        "num_experts_per_tok": metadata.integer("expert_used_count"),
    }


def _mixtral(metadata: ArchitectureMetadata) -> Fields:
    return _window(metadata) | _experts(metadata)


def _qwen_experts(metadata: ArchitectureMetadata) -> Fields:
    tensors = metadata.model.tensors
    dense = [index for index in range(metadata.layers()) if f"blk.{index}.ffn_gate_inp.weight" not in tensors]
    return {
        **_qwen(metadata),
        **_experts(metadata),
        "moe_intermediate_size": metadata.integer("expert_feed_forward_length"),
        "shared_expert_intermediate_size": metadata.integer("expert_shared_feed_forward_length", 0),
        "norm_topk_prob": metadata.architecture == "qwen3moe",
        "mlp_only_layers": dense,
    }


def _phi3(metadata: ArchitectureMetadata) -> Fields:
    return _window(metadata) | {
        "original_max_position_embeddings": metadata.integer(
            "rope.scaling.original_context_length", metadata.integer("context_length")
        )
    }


def _gemma(metadata: ArchitectureMetadata) -> Fields:
    return {"hidden_activation": "gelu_pytorch_tanh"}


def _attention_scalar(metadata: ArchitectureMetadata, layers_of_27b: int) -> float:
    """The square of what scores are divided by: files do not say, but only the 27B models have another than the head's.

    A file that has `attention.scale` all the same is believed.
    """
    if metadata.has("attention.scale") and (scale := metadata.number("attention.scale")) > 0:
        return scale**-2
    if metadata.layers() == layers_of_27b:
        return metadata.integer("embedding_length") / max(metadata.integer("attention.head_count"), 1)
    return metadata.number("attention.key_length")


def _gemma2(metadata: ArchitectureMetadata) -> Fields:
    return {
        **_gemma(metadata),
        "sliding_window": metadata.integer("attention.sliding_window", 4096),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 50.0),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 30.0),
        "query_pre_attn_scalar": _attention_scalar(metadata, layers_of_27b=46),
    }


def _gemma3(metadata: ArchitectureMetadata) -> Fields:
    return {
        **_gemma(metadata),
        "sliding_window": metadata.integer("attention.sliding_window"),
        "sliding_window_pattern": metadata.integer("attention.sliding_window_pattern", 6),
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10_000.0),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 0.0),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 0.0),
        "query_pre_attn_scalar": _attention_scalar(metadata, layers_of_27b=62),
    }


def _granite(metadata: ArchitectureMetadata) -> Fields:
    return {
        "attention_multiplier": metadata.number("attention.scale", 1.0),
        "embedding_multiplier": metadata.number("embedding_scale", 1.0),
        "residual_multiplier": metadata.number("residual_scale", 1.0),
        "logits_scaling": metadata.number("logit_scale", 1.0),
    }


def _smollm3(_: ArchitectureMetadata) -> Fields:
    return {"no_rope_layer_interval": 4}


def _lfm2(metadata: ArchitectureMetadata) -> Fields:
    """A layer without heads of keys is a convolution."""
    return {
        "layer_types": ["full_attention" if heads else "conv" for heads in metadata.key_heads()],
        "conv_L_cache": metadata.integer("shortconv.l_cache"),
        "block_auto_adjust_ff_dim": False,
        "norm_eps": metadata.number("attention.layer_norm_rms_epsilon"),
    }


def _lfm2_moe(metadata: ArchitectureMetadata) -> Fields:
    return {
        **_lfm2(metadata),
        **_experts(metadata),
        "moe_intermediate_size": metadata.integer("expert_feed_forward_length"),
        "num_dense_layers": metadata.integer("leading_dense_block_count", 0),
        "norm_topk_prob": True,
        "routed_scaling_factor": metadata.number("expert_weights_scale", 1.0),
    }


def _gpt_oss(metadata: ArchitectureMetadata) -> Fields:
    """What expert gates are clamped to is not in the files, nor that the ramp of the rotation is not truncated."""
    return {
        **_window(metadata),
        **_experts(metadata),
        "intermediate_size": metadata.integer("expert_feed_forward_length"),
    }


def _starcoder2(metadata: ArchitectureMetadata) -> Fields:
    return {**_window(metadata), "norm_epsilon": metadata.number("attention.layer_norm_epsilon")}


_LFM2_OUTER = {**_OUTER, "token_embd_norm": "model.embedding_norm", "output_norm": "model.embedding_norm"}
_MISTRAL = Architecture("mistral", pairs=True, fields=_window)
_MIXTRAL = Architecture(
    "mixtral", {**_STANDARD, **_expert_names("block_sparse_moe", "w1", "w3", "w2")}, pairs=True, fields=_mixtral
)
_ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("llama", pairs=True),
        "qwen2": Architecture("qwen2", fields=_qwen),
        "qwen2moe": Architecture("qwen2_moe", {**_STANDARD, **_QWEN_EXPERTS}, fields=_qwen_experts),
        "qwen3": Architecture("qwen3", fields=_qwen),
        "qwen3moe": Architecture("qwen3_moe", {**_STANDARD, **_QWEN_EXPERTS}, fields=_qwen_experts),
        "phi3": Architecture(
            "phi3", {**_STANDARD, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}, fields=_phi3
        ),
        "gemma": Architecture("gemma", centred_norms=True, fields=_gemma),
        "gemma2": Architecture("gemma2", {**_STANDARD, **_SANDWICH}, centred_norms=True, fields=_gemma2),
        "gemma3": Architecture("gemma3_text", {**_STANDARD, **_SANDWICH}, centred_norms=True, fields=_gemma3),
        "granite": Architecture("granite", pairs=True, fields=_granite),
        "smollm3": Architecture("smollm3", pairs=True, fields=_smollm3),
        "lfm2": Architecture("lfm2", _LFM2, _LFM2_OUTER, fields=_lfm2),
        "lfm2moe": Architecture(
            "lfm2_moe",
            {
                **_LFM2, **_expert_names("feed_forward", "w1", "w3", "w2"),
                "exp_probs_b": "feed_forward.expert_bias",
            },
            _LFM2_OUTER, fields=_lfm2_moe,
        ),
        "gpt-oss": Architecture("gpt_oss", _GPT_OSS, fields=_gpt_oss),
        "olmo2": Architecture("olmo2", {**_STANDARD, **_SANDWICH}),
        "starcoder2": Architecture(
            "starcoder2", {**_STANDARD, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}, fields=_starcoder2
        ),
    }
)  # fmt: skip
