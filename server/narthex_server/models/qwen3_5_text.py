"""Qwen3.5, its language model: a Qwen3-Next without mixtures, and a projection for each input of its delta nets."""

from narthex_server.models.qwen3_next import Hybrid, parse_hybrid

CONFIG = parse_hybrid
MODEL = Hybrid
