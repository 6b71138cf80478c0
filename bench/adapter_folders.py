"""Adapters of random weights for a model, as PEFT writes them."""

import json
from pathlib import Path

import numpy as np
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.runtime.session import OrtDecoderSession
from safetensors.numpy import save_file

from bench.adapters import random_adapter


def write_adapters(model: Path, folder: Path, count: int, rank: int) -> dict[str, Path]:
    """A folder each below `folder`, by the adapter's name; factors for every linear layer."""
    session = load(model, LoadOptions(slots=1, max_context=16, adapters=Limits(1, rank))).session
    assert isinstance(session, OrtDecoderSession) and session.adapters
    found = {}
    for number in range(count):
        made = folder / f"adapter{number}"
        made.mkdir()
        tensors = {}
        for module, factors in random_adapter(session.adapters, rank, number).modules.items():
            tensors[f"base_model.model.{module}.lora_A.weight"] = factors.a
            tensors[f"base_model.model.{module}.lora_B.weight"] = np.ascontiguousarray(factors.b.T)
        save_file(tensors, made / "adapter_model.safetensors")
        (made / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank}))
        found[made.name] = made
    session.close()
    return found
