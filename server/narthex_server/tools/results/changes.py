"""When something was changed that results tell of."""

from collections import OrderedDict
from collections.abc import Hashable

MOST = 10_000


class Changes:
    """The epochs of places: a place begins a new one whenever something there may be another than before."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._epochs: OrderedDict[Hashable, object] = OrderedDict()

    def epoch(self, place: Hashable) -> Hashable:
        """Equal to what was given before only if nothing was changed since."""
        if (epoch := self._epochs.get(place)) is None:
            epoch = self._epochs[place] = object()  # never equal to one that was forgotten
            if len(self._epochs) > self._most:
                self._epochs.popitem(last=False)
        else:
            self._epochs.move_to_end(place)
        return epoch

    def happened(self, place: Hashable) -> None:
        self._epochs.pop(place, None)
