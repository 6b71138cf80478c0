"""When generation ends."""

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields


def stopping(fields: Fields, *most: str) -> wire.StoppingOptions:
    """`most` are the names for the largest number of tokens; the first that is given counts."""
    limits = [limit for name in most if (limit := fields.whole(name)) is not None]
    return wire.StoppingOptions(
        max_tokens=limits[0] if limits else None,
        min_tokens=fields.whole("min_tokens") or 0,
        stop=fields.texts("stop"),
        stop_token_ids=fields.wholes("stop_token_ids"),
        include_stop=bool(fields.flag("include_stop_str_in_output")),
        ignore_eos=bool(fields.flag("ignore_eos")),
    )
