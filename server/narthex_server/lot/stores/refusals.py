"""Why a store does not keep something, in the same words whichever it is."""

from narthex_server.errors import AlreadyExists, ResourceExhausted, Unavailable

UNUSABLE = "TICKET_STORE"
LOT_FULL = "LOT_FULL"


def closed() -> Unavailable:
    """The server is ending."""
    return Unavailable("the store of tickets is closed", reason=UNUSABLE)


def key_reused() -> AlreadyExists:
    """The tenant's key means other work already."""
    return AlreadyExists("another order has this idempotency key", reason="KEY_REUSED")


def ticket_exists() -> AlreadyExists:
    """The tenant has a ticket of this id."""
    return AlreadyExists("there is a ticket of this id", reason="TICKET_EXISTS")


def too_many(count: int, most: int) -> ResourceExhausted:
    """So many of the tenant's tickets are not over."""
    return ResourceExhausted(
        f"{count} tickets are not over, of {most} that the tenant may have",
        reason=LOT_FULL,
        metadata={"open": str(count), "max_open": str(most)},
    )


def too_large(held: int, most: int, more: int) -> ResourceExhausted:
    """So many bytes of the tenant's are kept, and so many more do not fit."""
    return ResourceExhausted(
        f"{held} bytes are kept, of {most} that the tenant may have, and {more} do not fit any more",
        reason=LOT_FULL,
        metadata={"bytes": str(held), "max_bytes": str(most)},
    )
