"""Server-sent events on the wire."""

KEEPALIVE = b": keepalive\n\n"


def message(data: bytes) -> bytes:
    """An event of the default type; `data` is one line of JSON."""
    return b"event: message\ndata: %b\n\n" % data


def event(name: bytes, data: bytes) -> bytes:
    """A named event; `data` holds no line break."""
    return b"event: %b\ndata: %b\n\n" % (name, data)
