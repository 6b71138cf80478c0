"""The peers, and how each of them is installed and started."""

import os
from pathlib import Path

from bench.peers.environment import LlamaCppBuild, Own, Venv
from bench.peers.peer import PeerKind

NARTHEX = "narthex"
DEFAULT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narthex/peers"
"""Where the peers are installed unless told otherwise."""


def llama_cpp(cache: Path) -> LlamaCppBuild:
    return LlamaCppBuild(cache / "llama.cpp", "0.3.36")


def catalogue(cache: Path, threads: int) -> dict[str, PeerKind]:
    """All of them by name; narthex's own first."""
    build = llama_cpp(cache)
    kinds = (
        PeerKind(NARTHEX, Own(), "narthex"),
        PeerKind("narthex-kv8", Own(), "narthex", ("--kv", "int8"), "lossless weights, keys and values as int8"),
        PeerKind("narthex-int8", Own(), "narthex", ("--compute", "int8"), "weights int8 per channel, not lossless"),
        PeerKind("llama.cpp", build, "llama_cpp", (), "flash attention as by default (auto)"),
        PeerKind("llama.cpp-noflash", build, "llama_cpp", ("--flash", "off"), "flash attention off"),
        PeerKind(
            "mistral.rs",
            Venv(cache / "mistral.rs", ("mistralrs==0.9.5",), {"RAYON_NUM_THREADS": str(threads)}),
            "mistral_rs",
            note="prompts each a token shorter than the one before; more than 2,048 tokens of prompts take minutes",
            prompt_tokens=2048,
        ),
        PeerKind(
            "ctranslate2",
            Venv(cache / "ctranslate2", ("ctranslate2==4.8.5",)),
            "ctranslate2",
            note="another format of weights: int8 with a scale for each row",
        ),
        PeerKind(
            "onnxruntime-genai",
            Venv(cache / "onnxruntime-genai", ("onnxruntime-genai==0.18.0", "onnx-ir==1.1.0")),
            "genai",
            note="another format of weights: 4-bit blocks of 32, float32 embeddings; int8 activations",
            prompt_tokens=4096,
        ),
    )
    return {kind.name: kind for kind in kinds}
