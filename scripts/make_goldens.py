"""Make reference models for tests/golden: tiny, random, and what transformers computes for them in float32.

Run by hand, with packages that nothing else here needs: torch 2.13.0, transformers 5.23.0, safetensors.
`python scripts/make_goldens.py [NAME …]` writes all of TINY, or those named. A seed is taken only if no greedy step is
close to a tie, and if changing each weight by a few millionths changes no logit much: no router is close to one either.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.integrations import mxfp4

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
STEPS, SMALLEST_MARGIN, LOGITS_STD = 24, 0.015, 2.5
PERTURBATION, LARGEST_EFFECT = 3e-6, 3e-3
KEPT_ROWS = 12
"""Logits that are kept of a prompt longer than twice as much: its last ones."""
MXFP4 = ("experts.gate_up_proj", "experts.down_proj")
SLIDING, FULL, LINEAR, CONV = "sliding_attention", "full_attention", "linear_attention", "conv"

Fields = dict[str, Any]
SMALL: Fields = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512,
}  # fmt: skip
GEMMA: Fields = SMALL | {"vocab_size": 560, "head_dim": 32, "num_key_value_heads": 1}
GEMMA_IDS: Fields = {"bos_token_id": 2, "eos_token_id": [1, 5], "pad_token_id": 0}
QWEN: Fields = {"vocab_size": 524, "bos_token_id": 500, "eos_token_id": 502, "pad_token_id": 500}
LLAMA: Fields = {"vocab_size": 512, "bos_token_id": 504, "eos_token_id": 505, "pad_token_id": 504}
LFM: Fields = {"vocab_size": 520, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 0}


@dataclass(frozen=True)
class Tiny:
    """A model: `donor` gives tokenizer and prompts; `older` is what transformers 4 spells otherwise, None is left out.

    Norms multiply by `centre` + weight; `part` is the config of the language model in that of a larger one.
    """

    donor: str
    kind: str
    fields: Fields
    older: Fields = field(default_factory=dict)
    centre: float = 0.0
    part: str = ""
    embedding_std: float = 1.0
    mxfp4: bool = False
    """Experts whose values are exact in MXFP4 too, and a second folder that has them so."""


TINY: Mapping[str, Tiny] = {
    "gemma": Tiny(
        "gemma2", "GemmaForCausalLM",
        GEMMA | GEMMA_IDS | {"rms_norm_eps": 1e-5, "rope_parameters": {"rope_type": "default", "rope_theta": 5e4}},
        {"hidden_act": "gelu", "hidden_activation": None}, centre=1.0, embedding_std=0.2,
    ),
    "gemma3_vision": Tiny(
        "gemma3", "Gemma3ForConditionalGeneration",
        {
            "text_config": GEMMA | {
                "num_key_value_heads": 2, "num_attention_heads": 4, "head_dim": 24, "query_pre_attn_scalar": 40,
                "sliding_window": 16, "layer_types": [SLIDING, FULL, SLIDING],
                "rope_parameters": {
                    FULL: {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e6},
                    SLIDING: {"rope_type": "default", "rope_theta": 2e4},
                },
            },
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
                "image_size": 28, "patch_size": 14,
            },
            "mm_tokens_per_image": 4, "image_token_index": 558, "boi_token_index": 556, "eoi_token_index": 557,
        } | GEMMA_IDS,
        {
            "rope_local_base_freq": 2e4, "rope_theta": 1e6, "rope_scaling": {"rope_type": "linear", "factor": 4.0},
            "layer_types": None, "_sliding_window_pattern": None, "sliding_window_pattern": 2,
        },
        centre=1.0, part="text_config", embedding_std=0.2,
    ),
    "qwen2_moe": Tiny(
        "qwen2", "Qwen2MoeForCausalLM",
        SMALL | QWEN | {
            "num_experts": 10, "num_experts_per_tok": 3, "moe_intermediate_size": 20, "norm_topk_prob": False,
            "shared_expert_intermediate_size": 40, "mlp_only_layers": [1], "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 3e5},
        },
        {"layer_types": None},
    ),
    "lfm2_moe": Tiny(
        "lfm2", "Lfm2MoeForCausalLM",
        SMALL | LFM | {
            "num_hidden_layers": 4, "layer_types": [CONV, FULL, CONV, FULL], "num_dense_layers": 1, "num_experts": 6,
            "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": True, "use_expert_bias": True,
            "routed_scaling_factor": 1.5, "norm_eps": 1e-4,
        },
    ),
    "olmo2": Tiny(
        "llama", "Olmo2ForCausalLM",
        SMALL | LLAMA | {"rms_norm_eps": 1e-4, "rope_parameters": {"rope_type": "default", "rope_theta": 2e5}},
    ),
    "starcoder2": Tiny(
        "llama", "Starcoder2ForCausalLM",
        SMALL | LLAMA | {"sliding_window": 20, "norm_epsilon": 1e-4, "intermediate_size": 160, "use_bias": True},
    ),
    "gpt_oss": Tiny(
        "llama", "GptOssForCausalLM",
        SMALL | LLAMA | {
            "num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 32, "intermediate_size": 32,
            "sliding_window": 16,
            "num_local_experts": 9, "num_experts_per_tok": 3, "swiglu_limit": 1.5,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1.5e5, "factor": 8.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 64,
            },
        },
        {"swiglu_alpha": None, "layer_types": None}, mxfp4=True,
    ),
    "qwen3_next": Tiny(
        "qwen3", "Qwen3NextForCausalLM",
        SMALL | QWEN | {
            "vocab_size": 520, "head_dim": 32, "layer_types": [LINEAR, FULL, LINEAR], "linear_num_key_heads": 2,
            "linear_num_value_heads": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 12, "num_experts": 6,
            "linear_conv_kernel_dim": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
            "shared_expert_intermediate_size": 32, "mlp_only_layers": [1], "norm_topk_prob": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.25},
        },
        {"layer_types": None, "full_attention_interval": 2}, centre=1.0,
    ),
    "qwen3_5": Tiny(
        "qwen3", "Qwen3_5ForConditionalGeneration",
        {
            "text_config": SMALL | QWEN | {
                "vocab_size": 520, "head_dim": 20, "layer_types": [LINEAR, LINEAR, FULL], "linear_num_key_heads": 3,
                "linear_num_value_heads": 3, "linear_key_head_dim": 12, "linear_value_head_dim": 20,
                "linear_conv_kernel_dim": 3, "rms_norm_eps": 1e-5, "tie_word_embeddings": True,
                "rope_parameters": {
                    "rope_type": "default", "rope_theta": 1e5, "partial_rotary_factor": 0.5,
                    "mrope_section": [2, 2, 1], "mrope_interleaved": True,
                },
            },
            "vision_config": {
                "hidden_size": 16, "intermediate_size": 16, "depth": 1, "num_heads": 1, "out_hidden_size": 64,
                "num_position_embeddings": 16,
            },
            "tie_word_embeddings": True,
        },
        centre=1.0, part="text_config",
    ),
}  # fmt: skip


def build(tiny: Tiny, seed: int) -> Any:
    """A random model in float32 whose values are exact in bfloat16."""
    kind = getattr(transformers, tiny.kind)
    model = kind(kind.config_class(**json.loads(json.dumps(tiny.fields)))).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, values in model.state_dict().items():
        if name != "lm_head.weight" or not model.config.tie_word_embeddings:
            values.copy_(random_like(name, values, tiny, generator))
    ids = torch.tensor([prompt["input_ids"] for prompt in prompts(tiny)][1])
    # The logits get their spread from the last norm, whose factors are around zero where the head is tied: if not, such
    # a model repeats its last token.
    final = final_norm(model)
    if model.config.tie_word_embeddings:
        final.weight.copy_(torch.randn(final.weight.shape, generator=generator) - tiny.centre)
    factor = LOGITS_STD / logits_of(model, ids).std()
    final.weight.copy_((final.weight + tiny.centre) * factor - tiny.centre)
    for name, values in model.state_dict().items():
        values.copy_(values.bfloat16())
        if tiny.mxfp4 and name.endswith(MXFP4):
            values.copy_(mxfp4.convert_moe_packed_tensors(*packed(values), dtype=torch.float32))
    return model


def random_like(name: str, values: Tensor, tiny: Tiny, generator: torch.Generator) -> Tensor:
    """Weights with which every part of a model matters."""
    noise = torch.randn(values.shape, generator=generator)
    if "embed" in name:
        return noise * tiny.embedding_std
    if "norm" in name.split(".")[-2] and name.endswith("weight"):
        return 1 - (tiny.centre if "linear_attn" not in name else 0) + 0.3 * noise
    if name.endswith("A_log"):
        return noise - 2
    if values.dim() == 1 or name.endswith("bias"):
        return noise * (1.5 if name.endswith("sinks") else 0.3)
    return noise * 1.3 * values.shape[-2 if tiny.mxfp4 and name.endswith(MXFP4) else -1] ** -0.5


def packed(values: Tensor) -> tuple[Tensor, Tensor]:
    """Matrices [experts, columns, rows] as the blocks and scales of MXFP4, whose blocks of 32 lie along columns."""
    split = values.transpose(1, 2).unflatten(-1, (-1, 32))
    exponents = split.abs().amax(-1).log2().floor() - 2  # the largest code is 6, that is 1.5 * 2^2
    distances = split[..., None] / torch.exp2(exponents)[..., None, None] - torch.tensor(mxfp4.FP4_VALUES)
    codes = distances.abs().argmin(-1)
    return (codes[..., 0::2] | codes[..., 1::2] << 4).to(torch.uint8), (exponents + 127).to(torch.uint8)


def final_norm(model: Any) -> Any:
    """The norm before the head."""
    text = getattr(model.model, "language_model", model.model)
    return text.embedding_norm if hasattr(text, "embedding_norm") else text.norm


def logits_of(model: Any, ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids[None], use_cache=False).logits[0]
    return logits


def prompts(tiny: Tiny) -> list[Fields]:
    """Short, long and chat-like ones."""
    found: list[Fields] = json.loads((GOLDEN / tiny.donor / "golden.json").read_text())["prompts"]
    return found


def runs(model: Any, tiny: Tiny) -> Iterator[tuple[Fields, Tensor, list[int], Tensor]]:
    """Prompts with their logits, the greedy ids (the end is ignored), and the logits that chose them."""
    for prompt in prompts(tiny):
        ids = torch.tensor(prompt["input_ids"])
        length = len(ids)
        for _ in range(STEPS):
            ids = torch.cat((ids, logits_of(model, ids)[-1:].argmax(-1)))
        logits = logits_of(model, ids)
        yield prompt, logits[:length], ids[length:].tolist(), logits[length - 1 : -1]


def stable(model: Any, tiny: Tiny) -> bool:
    """Whether a change of the weights that is larger than rounding stays small in the logits."""
    ids = torch.tensor(prompts(tiny)[1]["input_ids"])
    before, kept = logits_of(model, ids), {name: value.clone() for name, value in model.state_dict().items()}
    for values in model.state_dict().values():
        values.mul_(1 + PERTURBATION * torch.randn(values.shape))
    effect = (logits_of(model, ids) - before).abs().max()
    model.load_state_dict(kept)
    return bool(effect < LARGEST_EFFECT)


def write(name: str, tiny: Tiny, seed: int) -> bool:
    """Write a folder; False, and nothing written, where the seed is not good enough."""
    model = build(tiny, seed)
    if not stable(model, tiny):
        return False
    tensors, entries, margins = {}, [], []
    for prompt, logits, greedy, decode in runs(model, tiny):
        best = decode.topk(2).values
        if (margin := float((best[:, 0] - best[:, 1]).min())) < SMALLEST_MARGIN:
            return False
        margins.append(margin)
        start = 0 if len(logits) <= 2 * KEPT_ROWS else len(logits) - KEPT_ROWS
        names = {"logits": f"{prompt['name']}.logits", "decode_logits": f"{prompt['name']}.decode_logits"}
        tensors |= {names["logits"]: logits[start:].clone(), names["decode_logits"]: decode.clone()}
        entries.append(
            {"name": prompt["name"], "input_ids": prompt["input_ids"], "logits_start": start}
            | {"greedy_ids": greedy, "tensors": names}
        )
    folder = GOLDEN / name
    folder.mkdir(exist_ok=True)
    for file in TOKENIZER:
        if (source := GOLDEN / tiny.donor / file).exists():
            shutil.copy(source, folder / file)
    model.bfloat16().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.v4.json").write_text(json.dumps(older(folder, tiny), indent=2) + "\n")
    save_file(tensors, folder / "golden.safetensors")
    facts = {
        "architecture": tiny.kind, "transformers": transformers.__version__, "torch": torch.__version__,
        "init_seed": seed, "min_greedy_margin": round(min(margins), 5),
        "logits_std": round(float(tensors["long.logits"].std()), 3), "prompts": entries,
    }  # fmt: skip
    (folder / "golden.json").write_text(json.dumps(facts) + "\n")
    if tiny.mxfp4:
        write_mxfp4(folder, GOLDEN / f"{name}_mxfp4")
    return True


def write_mxfp4(source: Path, folder: Path) -> None:
    """Write the same model with the experts in MXFP4."""
    shutil.copytree(source, folder, dirs_exist_ok=True)
    tensors = {}
    for name, values in load_file(source / "model.safetensors").items():
        parts = dict(zip(("_blocks", "_scales"), packed(values.float()), strict=True)) if name.endswith(MXFP4) else {}
        tensors |= {name + part: packs.contiguous() for part, packs in parts.items()} or {name: values}
    save_file(tensors, folder / "model.safetensors")
    for file in ("config.json", "config.v4.json"):
        config = json.loads((folder / file).read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
        (folder / file).write_text(json.dumps(config, indent=2) + "\n")


def older(folder: Path, tiny: Tiny) -> Fields:
    """The config as transformers 4 spells it."""
    config: Fields = json.loads((folder / "config.json").read_text())
    config["torch_dtype"] = config.pop("dtype")
    config["transformers_version"] = "4.57.1"
    text = config[tiny.part] if tiny.part else config
    rope = text.pop("rope_parameters")
    if "rope_theta" in rope:
        text["rope_theta"] = rope.pop("rope_theta")
        text |= {"partial_rotary_factor": rope.pop("partial_rotary_factor")} if "partial_rotary_factor" in rope else {}
        text["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    text |= tiny.older
    for name in [name for name, value in tiny.older.items() if value is None]:
        del text[name]
    return config


@torch.no_grad()
def main() -> None:
    for name in sys.argv[1:] or TINY:
        seed = next(seed for seed in range(1000) if write(name, TINY[name], seed))
        size = sum(file.stat().st_size for file in (GOLDEN / name).iterdir())
        print(f"{name}: seed {seed}, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
