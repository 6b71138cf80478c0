"""What work takes, and what there is to take."""

from collections.abc import Mapping

Units = Mapping[str, int]
"""By resource: `{"slots": 1, "kv_tokens": 700}`. What is not named is nothing of it."""


def fits(cost: Units, room: Units) -> bool:
    """Whether there is room enough of everything; of a resource that the room does not know there is none."""
    return all(amount <= room.get(resource, 0) for resource, amount in cost.items())


def share(cost: Units, capacity: Units) -> float:
    """The largest part of any resource that the cost is."""
    return max((amount / max(capacity.get(resource, 0), 1) for resource, amount in cost.items()), default=0.0)
