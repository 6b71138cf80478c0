"""What each token contributes to the text, as bytes."""

import json
import re

import tokenizers

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def piece_bytes(backend: tokenizers.Tokenizer) -> tuple[tuple[bytes, ...] | None, bool]:
    """The bytes of every token id, and whether a text's first space is the tokenizer's own.

    None where the decoder is of another kind (WordPiece and the like) and tokens have no bytes of their own.
    """
    decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else None
    steps = decoder["decoders"] if decoder and decoder["type"] == "Sequence" else [decoder] if decoder else []
    kinds = {step["type"] for step in steps}
    vocabulary = backend.get_vocab(with_added_tokens=True)
    table = [b""] * (max(vocabulary.values(), default=-1) + 1)
    if kinds == {"ByteLevel"}:
        spelling = _latin_spelling()
        for token, index in vocabulary.items():
            table[index] = _byte_level(token, spelling)
        return tuple(table), False
    if kinds <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"} and kinds & {"ByteFallback", "Metaspace"}:
        for token, index in vocabulary.items():
            table[index] = _sentence_piece(token)
        return tuple(table), any(_strips(step) for step in steps)
    return None, False


def byte_alphabet() -> dict[str, int]:
    """GPT-2's spelling of the 256 bytes as printable characters."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + rank): byte for rank, byte in enumerate(others)}


def _latin_spelling() -> dict[int, int]:
    """From the alphabet's characters to those that Latin-1 has for the same bytes, and beyond it for all others."""
    others = dict.fromkeys(range(256), 0xFFFF)
    return others | {ord(character): byte for character, byte in byte_alphabet().items()}


def _byte_level(token: str, spelling: dict[int, int]) -> bytes:
    if token.isascii():  # which the alphabet spells as itself
        return token.encode()
    try:
        return token.translate(spelling).encode("latin-1")
    except UnicodeEncodeError:  # an added token, which is plain text
        return token.encode()


def _sentence_piece(token: str) -> bytes:
    byte = _BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()


def _strips(step: dict[str, object]) -> bool:
    if step["type"] == "Metaspace":
        return step.get("prepend_scheme", "always") != "never"
    return step["type"] == "Strip" and step.get("content") == " " and step.get("start") == 1
