"""The content of messages: a string, or parts of several kinds."""

import base64
import binascii
from collections.abc import Mapping
from types import MappingProxyType

from narthex.v1 import generation_pb2 as wire

from narthex_bridge.faces.body import Fields

_SOUNDS: Mapping[str, str] = MappingProxyType({"wav": "audio/wav", "mp3": "audio/mpeg"})
_TEXTS = ("text", "input_text", "output_text", "refusal", "summary_text", "reasoning_text")


def content(message: Fields, name: str = "content") -> list[wire.ContentPart]:
    """The parts of a message; none where it has no content."""
    value = message.any(name)
    if value is None:
        return []
    if isinstance(value, str):
        return [wire.ContentPart(text=value)]
    return [_part(part) for part in message.objects(name)]


def plain(message: Fields, name: str) -> str:
    """The text of content that cannot be anything else."""
    parts = content(message, name)
    if any(part.WhichOneof("part") != "text" for part in parts):
        raise message.fault(name, "must be text")
    return "".join(part.text for part in parts)


def _part(part: Fields) -> wire.ContentPart:
    kind = part.needed_text("type")
    if kind in _TEXTS:
        return wire.ContentPart(text=part.needed_text("refusal" if kind == "refusal" else "text"))
    match kind:
        case "image_url":
            image = part.object("image_url")
            if image is None:
                raise part.fault("image_url", "is missing")
            return wire.ContentPart(image=_data_url(image, "url"))
        case "input_image":
            return wire.ContentPart(image=_data_url(part, "image_url"))
        case "input_audio":
            audio = part.object("input_audio")
            if audio is None:
                raise part.fault("input_audio", "is missing")
            kind = _SOUNDS[audio.one_of("format", *_SOUNDS) or "wav"]
            return wire.ContentPart(
                audio=wire.Media(data=_bytes(audio, "data", audio.needed_text("data")), mime_type=kind)
            )
        case _:
            raise part.fault("type", f"{kind!r:.40} is not supported here")


def _data_url(part: Fields, name: str) -> wire.Media:
    scheme, _, rest = part.needed_text(name).partition(":")
    head, comma, data = rest.partition(",")
    mime, *modes = head.split(";")
    if scheme != "data" or not comma or "base64" not in modes:
        raise part.fault(name, "must be a data: URL in base64; nothing is fetched from elsewhere")
    return wire.Media(data=_bytes(part, name, data), mime_type=mime)


def _bytes(part: Fields, name: str, data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise part.fault(name, "must be base64") from None
