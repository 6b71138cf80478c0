"""Qwen3: a Qwen2 without biases that normalises the heads of queries and keys before they rotate."""

from narthex_server.models import qwen2
from narthex_server.models.base import HeadNorms

CONFIG = qwen2.parse
MODEL = HeadNorms
