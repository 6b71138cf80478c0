"""How tokens are drawn: OpenAI's members, and those of mistral.rs, vLLM and llama.cpp that mean the same."""

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import LARGEST_WHOLE, Fields

_SEEDS = 2**64


def sampling(fields: Fields) -> wire.SamplingOptions:
    """Ranges are the server's to check."""
    repetition = fields.number("repetition_penalty")
    repeat = fields.number("repeat_penalty")
    seed = fields.integer("seed")
    return wire.SamplingOptions(
        temperature=fields.number("temperature"),
        top_p=fields.number("top_p"),
        top_k=_top_k(fields),
        min_p=fields.number("min_p"),
        seed=None if seed is None else seed % _SEEDS,
        frequency_penalty=fields.number("frequency_penalty"),
        presence_penalty=fields.number("presence_penalty"),
        repetition_penalty=repeat if repetition is None else repetition,
        dry=_dry(fields),
        logit_bias=_logit_bias(fields),
        allowed_token_ids=fields.wholes("allowed_token_ids"),
    )


def _top_k(fields: Fields) -> int | None:
    if fields.integer("top_k") == -1:  # all, for those who know no 0
        return 0
    return fields.whole("top_k")


def _dry(fields: Fields) -> wire.DryOptions | None:
    multiplier, window = fields.number("dry_multiplier"), fields.integer("dry_penalty_last_n")
    base, allowed = fields.number("dry_base"), fields.whole("dry_allowed_length")
    breakers = fields.texts("dry_sequence_breakers")
    if not multiplier or window == 0:
        return None
    if window == -1:  # all that there is
        window = 0
    elif window is not None:
        window = fields.whole("dry_penalty_last_n")
    return wire.DryOptions(
        multiplier=multiplier, base=base, allowed_length=allowed, window=window, sequence_breakers=breakers
    )


def _logit_bias(fields: Fields) -> dict[int, float]:
    bias = fields.object("logit_bias")
    if bias is None:
        return {}
    found = {}
    for token in bias.unread():
        value = bias.number(token)
        if not token.isdecimal() or int(token) > LARGEST_WHOLE or value is None:
            raise bias.fault(token, "must be a token's id")
        found[int(token)] = value
    return found
