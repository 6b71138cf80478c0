"""The peers, and how each of them is installed and started."""

from pathlib import Path

from bench.peers.environment import LlamaCppBuild, Own
from bench.peers.peer import PeerKind

NARTHEX = "narthex"


def llama_cpp(cache: Path) -> LlamaCppBuild:
    return LlamaCppBuild(cache / "llama.cpp", "0.3.36")


def catalogue(cache: Path) -> dict[str, PeerKind]:
    """All of them by name; narthex's own first."""
    build = llama_cpp(cache)
    kinds = (
        PeerKind(NARTHEX, Own(), "narthex"),
        PeerKind("narthex-int8", Own(), "narthex", ("--compute", "int8"), "weights int8 per channel, not lossless"),
        PeerKind("llama.cpp", build, "llama_cpp", (), "flash attention as by default (auto)"),
        PeerKind("llama.cpp-noflash", build, "llama_cpp", ("--flash", "off"), "flash attention off"),
    )
    return {kind.name: kind for kind in kinds}
