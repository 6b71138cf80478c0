"""Server-sent events on the wire."""

KEEPALIVE = b": keepalive\n\n"


def message(data: bytes) -> bytes:
    """An event of the default type; `data` is one line of JSON."""
    return b"event: message\ndata: %b\n\n" % data


def numbered(event_id: bytes, data: bytes) -> bytes:
    """A message that a client may name when it reconnects."""
    return b"event: message\nid: %b\ndata: %b\n\n" % (event_id, data)


def priming(event_id: bytes, retry_ms: int) -> bytes:
    """No message yet, but an id to reconnect with, and how long to wait before that (SEP-1699)."""
    return b"id: %b\nretry: %d\ndata: \n\n" % (event_id, retry_ms)


def retry(retry_ms: int) -> bytes:
    """How long to wait before reconnecting to a stream that is about to be closed."""
    return b"retry: %d\n\n" % retry_ms


def comment(text: bytes) -> bytes:
    """What people may read and clients do not."""
    return b": %b\n\n" % text


def event(name: bytes, data: bytes) -> bytes:
    """A named event; `data` holds no line break."""
    return b"event: %b\ndata: %b\n\n" % (name, data)
