"""XLM-RoBERTa: RoBERTa for many languages."""

from narthex_server.models.encoders import roberta

CONFIG = roberta.CONFIG
MODEL = roberta.MODEL
