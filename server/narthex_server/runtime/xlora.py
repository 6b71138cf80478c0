"""X-LoRA: a first pass of the model says how much of each expert every token gets in the second.

Source: https://arxiv.org/abs/2402.07148.
"""

import gc
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import FailedPrecondition, InvalidModelFile
from narthex_server.runtime.adapter_bank import Adapter, AdapterBank, Limits
from narthex_server.runtime.session import ROW, Shape, cache_of, long_prompt
from narthex_server.runtime.slot_cache import Saved
from narthex_server.runtime.stepper import Others, Stepper, Tokens, open_session

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Classifier:
    """From hidden states [T, hidden] to the scalings of experts.

    `layers` are weights [out, in] and biases [out], the last one's out being experts or modules * experts, if `modules`
    name those that have scalings of their own; else they share them. `scaling_pass` is the scaling in the first pass.
    """

    layers: tuple[tuple[Floats, Floats], ...]
    modules: tuple[str, ...]
    experts: int
    relu: bool
    softmax: bool
    temperature: float
    top: int | None
    top_softmax: bool
    weight: float
    scaling_pass: float

    @classmethod
    def parse(
        cls, fields: Mapping[str, Any], layers: Sequence[tuple[Floats, Floats]], modules: Sequence[str], experts: int
    ) -> "Classifier":
        """From the settings of an X-LoRA folder; PEFT always rectifies between layers. Errors: InvalidModelFile."""
        try:
            top = fields.get("top_k_lora")
            for name, value in (("top_k_lora", top), ("softmax_temperature", fields.get("softmax_temperature"))):
                if value and not 0 < float(value) < math.inf:
                    raise ValueError(f"{name} is {value}")
            return cls(
                tuple(layers),
                tuple(modules),
                experts,
                relu=bool(fields.get("enable_relu_and_dropout", "peft_type" in fields)),
                softmax=bool(fields.get("enable_softmax", True)),
                temperature=float(fields.get("softmax_temperature") or 1.0),
                top=int(top) if top else None,
                top_softmax=bool(fields.get("enable_softmax_topk")),
                weight=float(fields.get("global_scaling_weight", 1.0)),
                scaling_pass=float(fields.get("scaling_pass_value") or 0.0),
            )
        except (TypeError, ValueError) as error:
            raise InvalidModelFile(f"the X-LoRA configuration does not fit: {error}") from error

    def scalings(self, hidden: Floats) -> Floats:
        """Scalings [T, modules or 1, experts] before top-k and weight, as the classifier gives them."""
        for index, (weight, bias) in enumerate(self.layers):
            if index and self.relu:
                hidden = np.maximum(hidden, 0)
            hidden = hidden @ weight.T + bias
        scalings = hidden.reshape(len(hidden), -1, self.experts)
        return _softmax(scalings / np.float32(self.temperature)) if self.softmax else scalings

    def applied(self, scalings: Floats) -> Floats:
        """What each expert's product is multiplied by: only the largest `top` count, and are not scaled up for it."""
        if self.top is not None and self.top < self.experts:
            least = np.partition(scalings, -self.top, axis=-1)[..., -self.top, None]
            kept = scalings >= least
            scalings = np.where(kept, scalings, 0)
            if self.top_softmax:
                scalings = np.where(kept, _softmax(np.where(kept, scalings, -np.inf)), 0)
        return scalings * np.float32(self.weight)


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


class XLoraSession:
    """The engine's DecoderSession over an adapted graph that runs twice, over two caches.

    With `frozen_after` a sequence keeps its scalings from that many generated tokens on and runs once.
    """

    adapters = None
    appends = False
    """Scalings that are frozen after so many generated tokens are not those of a prompt."""

    def __init__(
        self, graph: Path, shape: Shape, classifier: Classifier, experts: Sequence[Adapter], frozen_after: int = 0
    ) -> None:
        """Errors: FailedPrecondition where experts or classifier do not fit the model."""
        session = open_session(graph, shape.threads)
        largest = max(len(factors.a) for expert in experts for factors in expert.modules.values())
        self._bank = AdapterBank(session.get_modelmeta().custom_metadata_map["adapted"], Limits(len(experts), largest))
        for place, expert in enumerate(experts):
            self._bank.check(expert)
            self._bank.load(place, expert)
        self.slots = shape.slots
        self.max_len = shape.max_len
        self._shape = shape
        self._classifier = classifier
        self._experts: Mapping[str, Floats] = self._bank.inputs(range(len(experts))).buffers
        self._columns = _columns(self._bank.modules, classifier, experts)
        self._cache, self._first_cache = (cache_of(session, shape.slots, shape.max_len) for _ in range(2))
        self._stepper = Stepper(session, self._cache, "logits")
        self._first_pass = Stepper(session, self._first_cache, "hidden")
        if (wanted := classifier.layers[0][0].shape[1]) != (found := self._first_pass.width):
            raise FailedPrecondition(
                f"the X-LoRA classifier takes states of {wanted} numbers, the model's have {found}"
            )
        self.vocab_size = self._stepper.width
        self.token_bytes = 2 * self._cache.token_bytes
        self.state_bytes = 2 * self._cache.state_bytes
        self._long_prompt = long_prompt(session, shape)
        self._frozen_after = frozen_after
        self._prompts = np.ones(shape.slots, np.int64)
        self._scales = np.zeros((shape.slots, len(self._bank.modules), len(experts)), np.float32)
        self._classes = itertools.count(2)

    def decode(
        self, first: int, tokens: NDArray[np.int64], lengths: NDArray[np.int32], live: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Append tokens[i] to slot first+i, which holds lengths[i]; logits [R, vocab], valid until the next call."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        self._shape.check(first, lengths, 1)
        for row in live[lengths[live] == 0].tolist():
            self._reset(first + row)
        slots = first + live
        generated = lengths[live] - self._prompts[slots]
        thawed = live[generated < self._frozen_after] if self._frozen_after else live
        if len(thawed):
            step = Tokens(first, tokens[:, None], lengths, lengths + 1, thawed, thawed)
            self._scales[first + thawed] = self._scalings(step)
        scales = self._scales[first : first + len(tokens), None]
        return self._stepper.run(Tokens(first, tokens[:, None], lengths, lengths + 1, live, live), self._others(scales))

    def prefill(
        self, slot: int, tokens: NDArray[np.int64], past: int, rows: NDArray[np.int64], known: int
    ) -> NDArray[np.float32]:
        """Append tokens [S] to a slot that holds `past`; logits of those rows of the chunk [R, vocab], R may be 0."""
        if len(tokens) == 0:
            return np.empty((0, self.vocab_size), np.float32)
        lengths, prompt = np.array([past], np.int32), np.array([known], np.int32)
        self._shape.check(slot, lengths, len(tokens))
        if past == 0:
            self._reset(slot)
        self._prompts[slot] = known
        every = np.arange(len(tokens))
        scales = self._scalings(Tokens(slot, tokens[None], lengths, prompt, every, ROW))
        self._scales[slot] = scales[-1]
        return self._stepper.run(Tokens(slot, tokens[None], lengths, prompt, rows, ROW), self._others(scales[None]))

    def prefix_class(self, length: int) -> int:
        """Frozen scalings leave no trace in the first pass's cache: nothing can go on from there."""
        return next(self._classes) if self._frozen_after else int(length > self._long_prompt)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` cached tokens of one slot to another, and the state that it is in."""
        self._cache.copy(source, target, length)
        self._first_cache.copy(source, target, length)
        self._prompts[target] = self._prompts[source]
        self._scales[target] = self._scales[source]

    def save(self, slot: int) -> tuple[Saved, Saved]:
        return self._cache.save(slot), self._first_cache.save(slot)

    def restore(self, slot: int, saved: tuple[Saved, Saved]) -> None:
        self._cache.restore(slot, saved[0])
        self._first_cache.restore(slot, saved[1])

    def release(self, slot: int, length: int = 0) -> None:
        """Give a slot's memory behind its first `length` tokens back to the system."""
        self._cache.release(slot, length)
        self._first_cache.release(slot, length)

    def close(self) -> None:
        self._stepper.close()
        self._first_pass.close()
        self._bank.close()
        self._experts = {}
        self._cache.close()
        self._first_cache.close()
        gc.collect()

    def _scalings(self, tokens: Tokens) -> Floats:
        """Run the first pass; scales [R, modules, experts] of the tokens that `rows` names."""
        shape = (len(tokens.batch), 1, *self._scales.shape[1:])
        first = self._first_pass.run(tokens, self._others(np.full(shape, self._classifier.scaling_pass, np.float32)))
        given = self._classifier.applied(self._classifier.scalings(first))
        return given[:, self._columns] if len(self._classifier.modules) else given.repeat(len(self._columns), axis=1)

    def _others(self, scales: Floats) -> Others:
        values: Mapping[str, NDArray[np.generic]] = MappingProxyType({"scales": scales})
        return Others(values, self._experts)

    def _reset(self, slot: int) -> None:
        self._cache.reset(slot)
        self._first_cache.reset(slot)
        self._prompts[slot] = 1


def _columns(modules: Sequence[str], classifier: Classifier, experts: Sequence[Adapter]) -> NDArray[np.int64]:
    """Which of the classifier's modules scales each of the graph's; any will do for one that no expert adapts."""
    adapted = {name for expert in experts for name in expert.modules}
    place = {name: at for at, name in enumerate(classifier.modules)}
    if classifier.modules and (lost := sorted(adapted - set(place))):
        raise FailedPrecondition(f"the X-LoRA classifier has no scalings for {lost[0]}, which its experts adapt")
    return np.array([place.get(name, 0) for name in modules], np.int64)
