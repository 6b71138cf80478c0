"""Random models of every family, of other dimensions and options than the reference ones, against NumPy.

The decoder here is written from the published definitions of the families, in float64 and without a cache.
"""

import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from narthex_server.loading import LoadOptions, load
from safetensors.numpy import save_file

GOLDEN = Path(__file__).parents[1] / "golden"
TYPES = {"f32": np.float32, "f16": np.float16, "bf16": ml_dtypes.bfloat16}
EXACT = 1e-3
SMALL = {
    "vocab_size": 67, "hidden_size": 40, "intermediate_size": 56, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 3.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN_WHOLE = {
    "rope_type": "yarn", "factor": 5.0, "original_max_position_embeddings": 24, "beta_fast": 4.0, "truncate": False,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 3.0, "original_max_position_embeddings": 32, "beta_fast": 8.0}
LINEAR = {"type": "linear", "factor": 2.5}
LONG = {"type": "longrope", "short_factor": [1.0, 1.1, 1.3], "long_factor": [1.5, 2.0, 4.0]}
QWEN_MOE = {"moe_intermediate_size": 24, "num_experts_per_tok": 3, "num_experts": 19}
SLIDING, FULL, DELTA_NET = "sliding_attention", "full_attention", "linear_attention"
HYBRID = ("qwen3_next", "qwen3_5", "qwen3_5_text")
DELTA = {
    "head_dim": 18, "partial_rotary_factor": 0.34, "linear_num_key_heads": 2, "linear_num_value_heads": 6,
    "linear_key_head_dim": 10, "linear_value_head_dim": 14, "linear_conv_kernel_dim": 3,
}  # fmt: skip

INSTANCES = {
    "llama": {"head_dim": 12, "rope_scaling": LLAMA3, "rope_theta": 3e4, "biases": True},
    "llama tied": {"num_key_value_heads": 4, "tie_word_embeddings": True, "rope_scaling": LINEAR},
    "mistral": {
        "head_dim": 20, "sliding_window": 5, "rope_parameters": YARN | {"rope_theta": 2e4}, "hidden_act": "gelu",
    },
    "qwen2": {"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1, "qkv_biases": True},
    "qwen3": {
        "head_dim": 18, "num_key_value_heads": 1, "sliding_window": 3, "use_sliding_window": True,
        "layer_types": [FULL, SLIDING, FULL],
    },
    "phi3": {"num_attention_heads": 5, "num_key_value_heads": 5, "sliding_window": 11},
    "phi3 longrope": {
        "hidden_size": 48, "partial_rotary_factor": 0.5, "original_max_position_embeddings": 16, "rope_scaling": LONG,
    },
    "lfm2": {
        "layer_types": ["conv", FULL, "conv"], "conv_L_cache": 4, "conv_bias": True, "norm_eps": 1e-4,
        "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.3,
    },
    "gemma": {"head_dim": 14, "num_key_value_heads": 1},
    "gemma2": {
        "head_dim": 24, "query_pre_attn_scalar": 19, "sliding_window": 3, "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
    },
    "gemma2 uncapped": {
        "head_dim": 16, "query_pre_attn_scalar": 50, "sliding_window": 9, "attn_logit_softcapping": None,
        "final_logit_softcapping": None, "layer_types": [FULL, FULL, SLIDING],
    },
    "gemma3_text": {
        "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 4, "sliding_window_pattern": 3,
        "rope_theta": 5e4, "rope_local_base_freq": 2e3, "rope_scaling": LINEAR,
    },
    "gemma3": {
        "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 6, "layer_types": [SLIDING, FULL, SLIDING],
        "rope_parameters": {FULL: YARN | {"rope_theta": 1e5}, SLIDING: {"rope_type": "default", "rope_theta": 3e3}},
        "prefix": "model.language_model.",
    },
    "gemma3 older": {
        "head_dim": 16, "sliding_window": 6, "sliding_window_pattern": 2, "prefix": "language_model.model.",
    },
    "granite": {
        "attention_multiplier": 0.3, "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "logits_scaling": 2.0,
        "biases": True,
    },
    "smollm3": {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 5},
    "smollm3 listed": {"no_rope_layers": [0, 1, 1], "head_dim": 26, "num_key_value_heads": 1},
    "mixtral": {"num_local_experts": 3, "num_experts_per_tok": 1, "sliding_window": 6},
    "mixtral stacked": {"num_local_experts": 4, "num_experts_per_tok": 3, "head_dim": 14, "stacked": "together"},
    "qwen3_moe": QWEN_MOE | {"head_dim": 22, "decoder_sparse_step": 2, "norm_topk_prob": False},
    "qwen3_moe stacked": QWEN_MOE | {
        "mlp_only_layers": [0], "norm_topk_prob": True, "hidden_act": "gelu", "stacked": "apart",
    },
    "qwen2_moe": QWEN_MOE | {"shared_expert_intermediate_size": 20, "qkv_biases": True},
    "lfm2_moe": {
        "layer_types": [FULL, "conv", "conv"], "num_dense_layers": 1, "moe_intermediate_size": 16, "num_experts": 6,
        "num_experts_per_tok": 2, "norm_topk_prob": True, "routed_scaling_factor": 1.5, "use_expert_bias": True,
    },
    "gpt_oss": {
        "head_dim": 20, "num_key_value_heads": 1, "sliding_window": 7, "rope_theta": 150000.0, "biases": True,
        "rope_scaling": YARN_WHOLE, "num_local_experts": 5, "num_experts_per_tok": 2, "swiglu_limit": 0.8,
        "stacked": "in turn",
    },
    "qwen3_next": QWEN_MOE | DELTA | {
        "shared_expert_intermediate_size": 20, "layer_types": [DELTA_NET, FULL, DELTA_NET], "norm_topk_prob": False,
    },
    "qwen3_5": DELTA | {
        "layer_types": [FULL, DELTA_NET, DELTA_NET], "hidden_act": "gelu", "num_key_value_heads": 1,
        "prefix": "model.language_model.",
    },
    "qwen3_5_text": DELTA | {"layer_types": [DELTA_NET] * 3, "linear_num_key_heads": 6, "linear_key_head_dim": 7},
    "olmo2": {"num_attention_heads": 5, "num_key_value_heads": 1},
    "starcoder2": {
        "norm_epsilon": 1e-4, "sliding_window": 10, "hidden_act": "gelu_pytorch_tanh", "biases": True,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


class Shapes:
    """The names and shapes of a family's tensors, as its published files have them."""

    def __init__(self, config):
        self.config = config
        self.kind = config["model_type"]
        self.hidden, self.heads = config["hidden_size"], config["num_attention_heads"]
        self.kv_heads, self.head_dim = config["num_key_value_heads"], head_dim(config)

    def all(self):
        yield "model.embed_tokens.weight", (self.config["vocab_size"], self.hidden)
        if not self.config["tie_word_embeddings"]:
            yield "lm_head.weight", (self.config["vocab_size"], self.hidden)
        yield from self.norm("model.embedding_norm" if "lfm2" in self.kind else "model.norm")
        for layer in range(self.config["num_hidden_layers"]):
            prefix = f"model.layers.{layer}"
            for name in layer_norms(self.kind):
                yield from self.norm(f"{prefix}.{name}")
            match mixer(self.config, layer):
                case "conv":
                    yield from self.convolution(f"{prefix}.conv")
                case "linear_attention":
                    yield from self.delta(f"{prefix}.linear_attn")
                case _:
                    yield from self.attention(prefix)
            yield from self.feed(layer, prefix)

    def norm(self, name, size=None):
        yield f"{name}.weight", (size or self.hidden,)
        if self.kind == "starcoder2":
            yield f"{name}.bias", (size or self.hidden,)

    def linear(self, name, rows, columns, biased=False):
        yield f"{name}.weight", (rows, columns)
        if biased or self.config.get("biases"):
            yield f"{name}.bias", (rows,)

    def attention(self, prefix):
        width, kv_width, biased = (
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.config.get("qkv_biases"),
        )
        prefix = f"{prefix}.self_attn"
        if self.kind == "phi3":
            yield from self.linear(f"{prefix}.qkv_proj", width + 2 * kv_width, self.hidden)
        else:
            doubled = 2 if self.kind in HYBRID else 1
            yield from self.linear(f"{prefix}.q_proj", doubled * width, self.hidden, biased)
            yield from self.linear(f"{prefix}.k_proj", kv_width, self.hidden, biased)
            yield from self.linear(f"{prefix}.v_proj", kv_width, self.hidden, biased)
        yield from self.linear(f"{prefix}.{'out_proj' if 'lfm2' in self.kind else 'o_proj'}", self.hidden, width)
        if self.kind == "gpt_oss":
            yield f"{prefix}.sinks", (self.heads,)
        for name, size in zip(head_norms(self.kind), (width, kv_width), strict=False):
            yield from self.norm(f"{prefix}.{name}", size if self.kind == "olmo2" else self.head_dim)

    def convolution(self, prefix):
        biased = self.config.get("conv_bias", False)
        yield from self.linear(f"{prefix}.in_proj", 3 * self.hidden, self.hidden, biased)
        yield f"{prefix}.conv.weight", (self.hidden, 1, self.config.get("conv_L_cache", 3))
        if biased:
            yield f"{prefix}.conv.bias", (self.hidden,)
        yield from self.linear(f"{prefix}.out_proj", self.hidden, self.hidden, biased)

    def delta(self, prefix):
        config = self.config
        heads, size = config["linear_num_value_heads"], config["linear_value_head_dim"]
        keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        channels = 2 * keys + heads * size
        if self.kind == "qwen3_next":
            rows = {"qkvz": channels + heads * size, "ba": 2 * heads}
        else:
            rows = {"qkv": channels, "z": heads * size, "b": heads, "a": heads}
        for name, count in rows.items():
            yield from self.linear(f"{prefix}.in_proj_{name}", count, self.hidden)
        yield f"{prefix}.conv1d.weight", (channels, 1, config["linear_conv_kernel_dim"])
        yield from ((f"{prefix}.{name}", (heads,)) for name in ("dt_bias", "A_log"))
        yield f"{prefix}.norm.weight", (size,)
        yield from self.linear(f"{prefix}.out_proj", self.hidden, heads * size)

    def feed(self, layer, prefix):
        config, width = self.config, dense_width(self.config)
        block, *names = feed_names(config)
        if not is_mixture(config, layer):
            match self.kind:
                case "phi3":
                    yield from self.linear(f"{prefix}.{block}.gate_up_proj", 2 * width, self.hidden)
                    yield from self.linear(f"{prefix}.{block}.down_proj", self.hidden, width)
                case "starcoder2":
                    yield from self.linear(f"{prefix}.{block}.c_fc", width, self.hidden)
                    yield from self.linear(f"{prefix}.{block}.c_proj", self.hidden, width)
                case _:
                    yield from self.gated(f"{prefix}.{block}", names, width)
            return
        count, width = experts(config), config.get("moe_intermediate_size", config["intermediate_size"])
        yield from self.linear(f"{prefix}.{block}.{router(self.kind)}", count, self.hidden)
        if config.get("use_expert_bias"):
            yield f"{prefix}.{block}.expert_bias", (count,)
        for index in range(count):
            yield from self.gated(f"{prefix}.{block}.experts.{index}", names, width)
        if self.kind in ("qwen2_moe", "qwen3_next"):
            yield f"{prefix}.{block}.shared_expert_gate.weight", (1, self.hidden)
            yield from self.gated(f"{prefix}.{block}.shared_expert", names, config["shared_expert_intermediate_size"])

    def gated(self, prefix, names, width):
        gate, up, down = names
        yield from self.linear(f"{prefix}.{gate}", width, self.hidden)
        yield from self.linear(f"{prefix}.{up}", width, self.hidden)
        yield from self.linear(f"{prefix}.{down}", self.hidden, width)


def head_dim(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def layer_norms(kind):
    if "lfm2" in kind:
        return "operator_norm", "ffn_norm"
    if kind == "olmo2":
        return "post_attention_layernorm", "post_feedforward_layernorm"
    inner = ("pre_feedforward_layernorm", "post_feedforward_layernorm") if kind[:6] in ("gemma2", "gemma3") else ()
    return "input_layernorm", "post_attention_layernorm", *inner


def head_norms(kind):
    if "lfm2" in kind:
        return "q_layernorm", "k_layernorm"
    normalised = ("qwen3", "qwen3_moe", "gemma3", "gemma3_text", "olmo2", *HYBRID)
    return ("q_norm", "k_norm") if kind in normalised else ()


def feed_names(config):
    if config["model_type"] == "mixtral":
        return "block_sparse_moe", "w1", "w3", "w2"
    return (
        ("feed_forward", "w1", "w3", "w2")
        if "lfm2" in config["model_type"]
        else ("mlp", "gate_proj", "up_proj", "down_proj")
    )


def router(kind):
    return "router" if kind == "gpt_oss" else "gate"


def mixer(config, layer):
    return config["layer_types"][layer] if "layer_types" in config else FULL


def dense_width(config):
    if config["model_type"] != "lfm2":
        return config["intermediate_size"]
    scaled = int(config["block_ffn_dim_multiplier"] * int(2 * config["intermediate_size"] / 3))
    return math.ceil(scaled / config["block_multiple_of"]) * config["block_multiple_of"]


def experts(config):
    return config.get("num_experts") or config.get("num_local_experts") or 0


def is_mixture(config, layer):
    match config["model_type"]:
        case "mixtral" | "gpt_oss":
            return True
        case "lfm2_moe":
            return layer >= config["num_dense_layers"]
        case "qwen2_moe" | "qwen3_moe" | "qwen3_next":
            return (
                layer not in config.get("mlp_only_layers", ())
                and (layer + 1) % config.get("decoder_sparse_step", 1) == 0
            )
    return False


class Reference:
    """Logits of a whole prompt at once."""

    def __init__(self, config, weights):
        self.config, self.weights, self.kind = config, weights, config["model_type"]
        self.gemma = self.kind.startswith("gemma")
        self.centre = 1.0 if self.gemma or self.kind in HYBRID else 0.0
        self.epsilon = config.get("norm_eps") or config.get("norm_epsilon") or config["rms_norm_eps"]
        if self.kind == "lfm2_moe":
            self.epsilon = 1e-5

    def logits(self, ids):
        config = self.config
        table = self.weights["model.embed_tokens.weight"]
        x = table[ids] * config.get("embedding_multiplier", config["hidden_size"] ** 0.5 if self.gemma else 1.0)
        for layer in range(config["num_hidden_layers"]):
            x = self.layer(layer, x)
        x = self.norm("model.embedding_norm" if "lfm2" in self.kind else "model.norm", x)
        logits = x @ self.weights.get("lm_head.weight", table).T / config.get("logits_scaling", 1.0)
        cap = config.get("final_logit_softcapping")
        return cap * np.tanh(logits / cap) if cap else logits

    def layer(self, layer, x):
        prefix, factor = f"model.layers.{layer}", self.config.get("residual_multiplier", 1.0)
        mix = {"conv": self.convolution, DELTA_NET: self.delta}.get(mixer(self.config, layer), self.attention)
        first, second, *inner = (f"{prefix}.{name}" for name in layer_norms(self.kind))
        if self.kind == "olmo2":
            x = x + self.norm(first, mix(layer, x))
            return x + self.norm(second, self.feed(layer, x))
        if inner:
            x = x + self.norm(second, mix(layer, self.norm(first, x)))
            return x + self.norm(inner[1], self.feed(layer, self.norm(inner[0], x)))
        x = x + factor * mix(layer, self.norm(first, x))
        return x + factor * self.feed(layer, self.norm(second, x))

    def norm(self, name, x):
        weight = self.centre + self.weights[f"{name}.weight"]
        if self.kind == "starcoder2":
            x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + self.epsilon) * weight + self.weights.get(f"{name}.bias", 0)

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", 0)

    def attention(self, layer, x):
        config, prefix, size = self.config, f"model.layers.{layer}.self_attn", head_dim(self.config)
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        if self.kind == "phi3":
            joined = self.linear(f"{prefix}.qkv_proj", x)
            q, k, v = np.split(joined, [heads * size, (heads + kv_heads) * size], axis=-1)
        else:
            q, k, v = (self.linear(f"{prefix}.{name}_proj", x) for name in "qkv")
        gate = 1.0
        if self.kind in HYBRID:
            q, gate = np.split(q.reshape(len(x), heads, -1), 2, axis=-1)
            q, gate = q.reshape(len(x), -1), 1 / (1 + np.exp(-gate.reshape(len(x), -1)))
        norms = [f"{prefix}.{name}" for name in head_norms(self.kind)]
        if self.kind == "olmo2":
            q, k = self.norm(norms[0], q), self.norm(norms[1], k)
        q, k, v = (part.reshape(len(x), -1, size).swapaxes(0, 1) for part in (q, k, v))
        if norms and self.kind != "olmo2":
            q, k = self.norm(norms[0], q), self.norm(norms[1], k)
        window = self.window(layer)
        if (rope := self.rope(layer, window)) is not None:
            q, k = rotate(q, *rope, len(x)), rotate(k, *rope, len(x))
        k, v = (np.repeat(part, heads // kv_heads, axis=0) for part in (k, v))
        scale = config.get("query_pre_attn_scalar", 256 if self.kind == "gemma3" else size) ** -0.5
        scores = q @ k.swapaxes(1, 2) * config.get("attention_multiplier", scale)
        if cap := config.get("attn_logit_softcapping"):
            scores = cap * np.tanh(scores / cap)
        ago = np.arange(len(x))[:, None] - np.arange(len(x))
        scores = np.where((ago >= 0) & (ago < (window or len(x))), scores, -np.inf)
        if self.kind == "gpt_oss":
            sinks = np.broadcast_to(self.weights[f"{prefix}.sinks"][:, None, None], (heads, len(x), 1))
            scores = np.concatenate((scores, sinks), axis=-1)
        mixed = (softmax(scores)[..., : len(x)] @ v).swapaxes(0, 1).reshape(len(x), -1)
        return self.linear(f"{prefix}.{'out_proj' if 'lfm2' in self.kind else 'o_proj'}", mixed * gate)

    def window(self, layer):
        config, window = self.config, self.config.get("sliding_window")
        if "layer_types" in config:
            sliding = config["layer_types"][layer] == SLIDING
        else:
            sliding = {
                "gemma2": layer % 2 == 0,
                "gpt_oss": layer % 2 == 0,
                "gemma3": (layer + 1) % config.get("sliding_window_pattern", 6) != 0,
                "gemma3_text": (layer + 1) % config.get("sliding_window_pattern", 6) != 0,
                "qwen2": layer >= config.get("max_window_layers", 0),
                "smollm3": not self.rotates(layer),
            }.get(self.kind, True)
        return window if sliding else None

    def rotates(self, layer):
        interval = self.config.get("no_rope_layer_interval", 4)
        return self.config.get("no_rope_layers", [(i + 1) % interval for i in range(99)])[layer]

    def rope(self, layer, window):
        config, size = self.config, head_dim(self.config)
        if self.kind == "smollm3" and not self.rotates(layer):
            return None
        scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
        theta = scaling.get("rope_theta") or config.get("rope_theta") or (2e6 if self.kind == "smollm3" else 1e4)
        if self.kind in ("gemma3", "gemma3_text"):
            if FULL in scaling:
                scaling = scaling[SLIDING if window else FULL]
                theta = scaling["rope_theta"]
            elif window:
                scaling, theta = {}, config.get("rope_local_base_freq", 1e4)
            else:
                theta = config.get("rope_theta", 1e6)
        return frequencies(scaling, theta, int(size * config.get("partial_rotary_factor", 1.0)), config)

    def convolution(self, layer, x):
        prefix = f"model.layers.{layer}.conv"
        before, after, value = np.split(self.linear(f"{prefix}.in_proj", x), 3, axis=-1)
        mixed = convolved(before * value, self.weights[f"{prefix}.conv.weight"])
        return self.linear(f"{prefix}.out_proj", after * (mixed + self.weights.get(f"{prefix}.conv.bias", 0)))

    def delta(self, layer, x):
        config, prefix, length = self.config, f"model.layers.{layer}.linear_attn", len(x)
        key_heads, key_size = config["linear_num_key_heads"], config["linear_key_head_dim"]
        heads, size = config["linear_num_value_heads"], config["linear_value_head_dim"]
        share = heads // key_heads
        if self.kind == "qwen3_next":
            by_head = self.linear(f"{prefix}.in_proj_qkvz", x).reshape(length, key_heads, -1)
            *parts, gate = np.split(by_head, np.cumsum([key_size, key_size, share * size]), axis=-1)
            joined = np.concatenate([part.reshape(length, -1) for part in parts], axis=-1)
            small = self.linear(f"{prefix}.in_proj_ba", x).reshape(length, key_heads, -1)
            rate, step = (part.reshape(length, -1) for part in np.split(small, 2, axis=-1))
        else:
            joined, gate, rate, step = (self.linear(f"{prefix}.in_proj_{name}", x) for name in ("qkv", "z", "b", "a"))
        joined = self.activate(convolved(joined, self.weights[f"{prefix}.conv1d.weight"]))
        *pair, value = np.split(joined, [key_heads * key_size, 2 * key_heads * key_size], axis=-1)
        query, key = (part.reshape(length, key_heads, key_size).repeat(share, axis=1) for part in pair)
        query, key = (part / np.sqrt((part**2).sum(-1, keepdims=True) + 1e-6) for part in (query, key))
        speed = -np.exp(self.weights[f"{prefix}.A_log"])
        decay = np.exp(speed * np.log1p(np.exp(step + self.weights[f"{prefix}.dt_bias"])))
        rate, value = 1 / (1 + np.exp(-rate)), value.reshape(length, heads, size)
        memory, mixed = np.zeros((heads, key_size, size)), np.empty((length, heads, size))
        for t in range(length):
            memory *= decay[t][:, None, None]
            missed = rate[t][:, None] * (value[t] - np.einsum("hk,hkv->hv", key[t], memory))
            memory += key[t][:, :, None] * missed[:, None]
            mixed[t] = np.einsum("hk,hkv->hv", query[t], memory) / math.sqrt(key_size)
        mixed *= self.weights[f"{prefix}.norm.weight"] / np.sqrt((mixed**2).mean(-1, keepdims=True) + self.epsilon)
        gate = gate.reshape(length, -1)
        return self.linear(f"{prefix}.out_proj", mixed.reshape(length, -1) * gate / (1 + np.exp(-gate)))

    def feed(self, layer, x):
        block, *names = feed_names(self.config)
        prefix = f"model.layers.{layer}.{block}"
        if is_mixture(self.config, layer):
            return self.mixture(prefix, names, x)
        if self.kind == "starcoder2":
            return self.linear(f"{prefix}.c_proj", self.activate(self.linear(f"{prefix}.c_fc", x)))
        if self.kind == "phi3":
            gate, up = np.split(self.linear(f"{prefix}.gate_up_proj", x), 2, axis=-1)
            return self.linear(f"{prefix}.down_proj", self.activate(gate) * up)
        return self.gated(prefix, names, x)

    def gated(self, prefix, names, x):
        gate, up, down = (f"{prefix}.{name}" for name in names)
        if self.kind == "gpt_oss":
            limit = self.config["swiglu_limit"]
            opened, up = np.minimum(self.linear(gate, x), limit), np.clip(self.linear(up, x), -limit, limit)
            return self.linear(down, opened / (1 + np.exp(-1.702 * opened)) * (up + 1))
        return self.linear(down, self.activate(self.linear(gate, x)) * self.linear(up, x))

    def mixture(self, prefix, names, x):
        config, logits = self.config, self.linear(f"{prefix}.{router(self.kind)}", x)
        weights = 1 / (1 + np.exp(-logits)) if self.kind == "lfm2_moe" else softmax(logits)
        scores = weights + self.weights.get(f"{prefix}.expert_bias", 0)
        result = np.zeros_like(x)
        for token in range(len(x)):
            chosen = np.argsort(-scores[token])[: config["num_experts_per_tok"]]
            share = weights[token, chosen]
            if self.kind in ("mixtral", "gpt_oss") or config.get("norm_topk_prob"):
                share = share / (share.sum() + (1e-6 if self.kind == "lfm2_moe" else 0))
            for expert, factor in zip(chosen, share * config.get("routed_scaling_factor", 1.0), strict=True):
                result[token] += factor * self.gated(f"{prefix}.experts.{expert}", names, x[token])
        if self.kind in ("qwen2_moe", "qwen3_next"):
            gate = self.linear(f"{prefix}.shared_expert_gate", x)
            result += self.gated(f"{prefix}.shared_expert", names, x) / (1 + np.exp(-gate))
        return result

    def activate(self, x):
        match self.config.get("hidden_act", "gelu_pytorch_tanh" if self.gemma else "silu"):
            case "silu":
                return x / (1 + np.exp(-x))
            case "gelu":
                return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
            case "gelu_pytorch_tanh":
                return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def convolved(x, weight):
    """Each channel of x [tokens, channels] by its own kernel, weight [channels, 1, width]."""
    kernel = weight[:, 0].T
    padded = np.concatenate((np.zeros((len(kernel) - 1, x.shape[1])), x))
    return np.stack([(padded[i : i + len(kernel)] * kernel).sum(0) for i in range(len(x))])


def softmax(x):
    raised = np.exp(x - x.max(-1, keepdims=True))
    return raised / raised.sum(-1, keepdims=True)


def frequencies(scaling, theta, size, config):
    """Angles of one position, and the factor on cosines and sines."""
    base = np.array([theta ** (-2 * i / size) for i in range(size // 2)])
    original = scaling.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    match scaling.get("rope_type") or scaling.get("type"):
        case "linear":
            return base / scaling["factor"], 1.0
        case "llama3":
            low, high = original / scaling["low_freq_factor"], original / scaling["high_freq_factor"]
            found = []
            for value in base:
                wave = 2 * math.pi / value
                smooth = (original / wave - scaling["low_freq_factor"]) / (
                    scaling["high_freq_factor"] - scaling["low_freq_factor"]
                )
                blended = (1 - smooth) * value / scaling["factor"] + smooth * value
                found.append(value if wave < high else value / scaling["factor"] if wave > low else blended)
            return np.array(found), 1.0
        case "yarn":
            low, high = (
                size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))
                for turns in (scaling.get("beta_fast", 32), scaling.get("beta_slow", 1))
            )
            if scaling.get("truncate", True):
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, size - 1)
            ramp = np.clip((np.arange(size // 2) - low) / (high - low or 0.001), 0, 1)
            return base / scaling["factor"] * ramp + base * (1 - ramp), 0.1 * math.log(scaling["factor"]) + 1
        case "longrope":
            stretch = config["max_position_embeddings"] / original
            return base / np.array(scaling["long_factor"]), math.sqrt(1 + math.log(stretch) / math.log(original))
    return base, 1.0


def rotate(x, base, scale, length):
    """Turn x [heads, tokens, size]; values beyond twice the frequencies stay."""
    angles = np.outer(np.arange(length), base)
    cos, sin, half = np.cos(angles) * scale, np.sin(angles) * scale, len(base)
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate((first * cos - second * sin, second * cos + first * sin, rest), axis=-1)


def write(folder, config, weights, stored):
    """A folder as published: under the prefix of the family, its experts stacked or not, bf16 ones in shards."""
    prefix, published = config.pop("prefix", "model."), {}
    for name, value in weights.items():
        published[prefix + name.removeprefix("model.") if name.startswith("model.") else name] = value.astype(stored)
    if how := config.pop("stacked", None):
        published = stack(config, published, how)
    if prefix != "model.":
        config = {"model_type": config.pop("model_type"), "text_config": config}
    (folder / "config.json").write_text(json.dumps(config))
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (folder / file).symlink_to(GOLDEN / "llama" / file)
    if stored is not ml_dtypes.bfloat16:
        save_file(published, folder / "model.safetensors")
        return
    names, index = sorted(published), {}
    for shard in range(3):
        file = f"model-{shard + 1:05}-of-00003.safetensors"
        save_file({name: published[name] for name in names[shard::3]}, folder / file)
        index |= dict.fromkeys(names[shard::3], file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))


def stack(config, weights, how):
    """One tensor for each matrix of all experts, or one for gate and up together, in a block called mlp.

    With rows in turn, matrices are transposed, and there are biases.
    """
    block, *names = feed_names(config)
    result = {name.replace(block, "mlp"): value for name, value in weights.items() if ".experts." not in name}
    for layer in (layer for layer in range(config["num_hidden_layers"]) if is_mixture(config, layer)):
        prefix = f"model.layers.{layer}.{block}.experts"
        gate, up, down = (
            np.stack([weights[f"{prefix}.{i}.{name}.weight"] for i in range(experts(config))]) for name in names
        )
        target = f"model.layers.{layer}.mlp.experts"
        if how == "in turn":
            biases = [
                np.stack([weights[f"{prefix}.{i}.{name}.bias"] for i in range(experts(config))]) for name in names
            ]
            for kind, parts in (("", (gate, up, down)), ("_bias", biases)):
                turns = np.stack(parts[:2], axis=2).reshape(len(gate), -1, *parts[0].shape[2:])
                result |= {f"{target}.gate_up_proj{kind}": np.ascontiguousarray(np.moveaxis(turns, 1, -1))}
                result |= {f"{target}.down_proj{kind}": np.ascontiguousarray(np.moveaxis(parts[2], 1, -1))}
        elif how == "together":
            result |= {f"{target}.gate_up_proj": np.concatenate((gate, up), axis=1), f"{target}.down_proj": down}
        else:
            parts = zip(names, (gate, up, down), strict=True)
            result |= {f"{target}.{name}.weight": value for name, value in parts}
    return result


@pytest.mark.parametrize("number", range(len(INSTANCES)), ids=list(INSTANCES))
def test_a_random_instance_gives_the_logits_of_the_definition(tmp_path, number):
    name, options = list(INSTANCES.items())[number]
    kind = name.split()[0]
    config = SMALL | {"tie_word_embeddings": True} | options if kind.startswith(("gemma", "lfm2")) else SMALL | options
    config = config | {"model_type": kind}
    stored = list(TYPES.values())[number % len(TYPES)]
    rng = np.random.default_rng(number)
    weights = {}
    for tensor, shape in Shapes(config).all():
        value = rng.normal(size=shape) / (math.sqrt(shape[-1]) if len(shape) > 1 else 4.0)
        if "norm" in tensor and tensor.endswith("weight") and not kind.startswith("gemma"):
            value += 1.0
        weights[tensor] = (2 * value if len(shape) > 1 else value).astype(stored).astype(np.float64)
    ids = rng.integers(config["vocab_size"], size=33)
    wanted = Reference(dict(config), weights).logits(ids)
    write(tmp_path, dict(config), weights, stored)

    session = load(tmp_path, LoadOptions("float32", threads=2, slots=2, max_context=64, cache_dir=tmp_path)).session
    rows, got, past = np.arange(len(ids)), [], 0
    for size in (1, 13, 18):
        chunk = ids[past : past + size]
        got.append(session.prefill(1, chunk, past, rows[:size], len(ids)).copy())
        past += size
    got.append(session.decode(1, ids[past:], np.array([past], np.int32), rows[:1]).copy())
    session.close()
    np.testing.assert_allclose(np.concatenate(got), wanted, rtol=0, atol=EXACT)
    assert np.std(wanted) > 0.3
