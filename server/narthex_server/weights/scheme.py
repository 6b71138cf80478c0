"""Which weight is quantised to what."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from narthex_server.weights.formats import FORMATS, BlockFormat
from narthex_server.weights.tensors import StoredTensor
from narthex_server.weights.topology import EMPTY, Topology

_TABLE = re.compile(r"(?:^|\.)(?:embed_tokens|word_embeddings|lm_head)\.weight")
_SMALL = re.compile(r"(?:^|\.)(?:gate|router|shared_expert_gate|position_embeddings|token_type_embeddings)\.weight")

_TABLE_KINDS: Mapping[str, str] = MappingProxyType({"Q2_K": "Q6_K", "Q3_K": "Q6_K", "Q4_K": "Q6_K"})
"""What embeddings and head get; Q8_0 where it is not here. An error there is in every token that goes in or out."""

_SHORT_ROWS: Mapping[str, str] = MappingProxyType(
    {"Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0"}
)
"""What takes the place of a format with blocks of 256 where rows do not divide into them: nothing that loses more.

Five bits multiply as eight, so that Q5_1 would save nothing over Q8_0 while it runs.
"""


@dataclass(frozen=True, slots=True)
class Choice:
    """A weight's format, None to leave it as it is stored, and why it is not simply what was asked for."""

    format: BlockFormat | None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A format for all matrices, None for those alone that the topology names, and a topology that goes before it."""

    kind: str | None
    topology: Topology = EMPTY

    def choose(self, tensor: StoredTensor) -> Choice:
        """Decide for one tensor."""
        entry = self.topology.find(tensor.name)
        kind = self.kind if entry is None else entry.kind
        if kind is None:
            return Choice(None, "not asked for" if entry is None else f"topology entry {entry.key}")
        if len(tensor.shape) != 2 or tensor.name.endswith("bias"):  # some files keep those of all experts in one
            return Choice(None, "not a matrix")
        if _SMALL.search(tensor.name):
            return Choice(None, "small, and much depends on it")
        reasons = []
        if entry is not None:
            reasons.append(f"topology entry {entry.key}")
        elif _TABLE.search(tensor.name) and (higher := _TABLE_KINDS.get(kind, "Q8_0")) != kind:
            kind = higher
            reasons.append("embeddings and head are kept higher")
        columns = tensor.shape[-1]
        if columns % FORMATS[kind].block and kind in _SHORT_ROWS:
            reasons.append(f"rows are no multiples of {FORMATS[kind].block}, which {kind} needs")
            kind = _SHORT_ROWS[kind]
        if columns % FORMATS[kind].block:
            return Choice(None, f"rows are no multiples of {FORMATS[kind].block}")
        return Choice(FORMATS[kind], "; ".join(reasons))


def summary(choices: Mapping[str, Choice]) -> str:
    """Say in one line what was decided for how many tensors, why, and for which one first."""
    groups: dict[Choice, list[str]] = {}
    for name, choice in choices.items():
        groups.setdefault(choice, []).append(name)
    return "; ".join(_group(choice, names) for choice, names in groups.items())


def _group(choice: Choice, names: list[str]) -> str:
    what = choice.format.name if choice.format else "as stored"
    return f"{what}: {len(names)}" + (
        f" ({choice.reason}: {names[0]}{' …' if len(names) > 1 else ''})" if choice.reason else ""
    )


def unused(topology: Topology, names: Iterable[str]) -> list[str]:
    """List the entries that no tensor's name fits: a layer that is not there, a pattern with a mistake."""
    known = list(names)
    return [entry.key for entry in topology.entries if not any(map(entry.tensors.covers, known))]
