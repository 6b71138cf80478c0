"""What a further attempt says anew."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from narthex.v1 import lot_pb2 as lot


@dataclass(slots=True)
class _Run:
    """Deltas of one text, one after the other: how they were cut means nothing."""

    key: tuple[str, int]
    text: str = ""
    ids: list[int] = field(default_factory=list)
    scores: int = 0

    def add(self, other: "_Run") -> None:
        self.text += other.text
        self.ids += other.ids
        self.scores += other.scores

    def begins(self, other: "_Run") -> bool:
        """Whether the other one says the same, and perhaps goes on."""
        texts = self.key == other.key and other.text.startswith(self.text)
        return texts and other.ids[: len(self.ids)] == self.ids and self.scores <= other.scores


class Retelling:
    """Holds a further attempt's events against those that are kept, of each completion by itself.

    What they repeat is left out. Where they come to something else, everything that this attempt has said follows a
    mark that voids what is kept.
    """

    def __init__(self, name: str, kept: Iterable[Any], attempt: int) -> None:
        """`kept` are the events since the last such mark; `name` is that of the kind of work."""
        self._name = name
        self._attempt = attempt
        self._kept: dict[int, deque[_Run | bytes]] = {}
        self._heads: dict[int, _Run] = {}
        self._said: list[Any] = []
        for event in kept:
            self._expect(event)

    def further(self, event: Any) -> Sequence[lot.WorkEvent]:
        """What is new in an event."""
        if not self._kept:
            return (self._packed(event),)
        self._said.append(event)
        index = _index(event)
        if (expected := self._kept.get(index)) is None:
            return (self._packed(event),)
        head, said = expected[0], _run(event)
        if said is None and head == _plain(event):
            self._passed(index)
            return ()
        if said is not None and isinstance(head, _Run):
            heard = self._heads.setdefault(index, _Run(said.key))
            heard.add(said)
            if heard.begins(head):
                if head.begins(heard):
                    self._passed(index)
                return ()
            if head.begins(heard) and len(expected) == 1:
                self._passed(index)
                return (self._packed(_cut(event, said, heard, head)),)
        said_so_far, self._said, self._kept = self._said, [], {}
        return (lot.WorkEvent(restarted=lot.Restarted(attempt=self._attempt)), *map(self._packed, said_so_far))

    def _expect(self, event: Any) -> None:
        run, own = _run(event), self._kept.setdefault(_index(event), deque())
        if run is None:
            own.append(_plain(event))
        elif own and isinstance(own[-1], _Run) and own[-1].key == run.key:
            own[-1].add(run)
        else:
            own.append(run)

    def _passed(self, index: int) -> None:
        self._heads.pop(index, None)
        self._kept[index].popleft()
        if not self._kept[index]:
            del self._kept[index]
        if not self._kept:
            self._said.clear()

    def _packed(self, event: Any) -> lot.WorkEvent:
        packed = lot.WorkEvent()
        getattr(packed, self._name).CopyFrom(event)
        return packed


def _index(event: Any) -> int:
    return int(getattr(event, "index", 0))


def _run(event: Any) -> _Run | None:
    """The text of a delta; None for anything else."""
    kind = event.WhichOneof("event") if "event" in event.DESCRIPTOR.oneofs_by_name else ""
    key = kind, int(getattr(event, "round", 0))
    match kind:
        case "text_delta":
            delta = event.text_delta
            return _Run(key, delta.text, list(delta.token_ids), len(delta.logprobs))
        case "reasoning_delta":
            return _Run(key, event.reasoning_delta.text)
        case _:
            return None


def _cut(event: Any, said: _Run, heard: _Run, head: _Run) -> Any:
    """The event without what is kept."""
    rest = type(event)()
    rest.CopyFrom(event)
    delta = getattr(rest, said.key[0])
    delta.text = heard.text[len(head.text) :]
    if said.key[0] == "text_delta":
        del delta.token_ids[: len(said.ids) - (len(heard.ids) - len(head.ids))]
        del delta.logprobs[: said.scores - (heard.scores - head.scores)]
    return rest


def _plain(event: Any) -> bytes:
    """An event as it is compared: without what it cost, which depends on what is cached."""
    plain = type(event)()
    plain.CopyFrom(event)
    if "finished" in plain.DESCRIPTOR.fields_by_name and plain.HasField("finished"):
        plain.finished.ClearField("usage")
    return bytes(plain.SerializeToString(deterministic=True))
