"""Encoders on ONNX Runtime: graphs that were built here, and those of ONNX folders."""

import gc
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from narthex_server.errors import InvalidModelFile
from narthex_server.runtime.stepper import open_session

_TYPES = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_STATES = ("last_hidden_state", "token_embeddings", "hidden_states")


class OrtEncoderSession:
    """An EncoderSession over a graph with inputs tokens and lengths and the output hidden.

    Errors: InvalidModelFile for a graph that needs more, such as states of a slot.
    """

    alone = False

    def __init__(self, graph: Path, *, max_len: int, threads: int) -> None:
        self._session: Any = open_session(graph, threads)
        if more := {value.name for value in self._session.get_inputs()} - {"tokens", "lengths"}:
            raise InvalidModelFile(f"models with states ({', '.join(sorted(more)[:3])}, …) cannot embed whole texts")
        self.max_len = min(max_len, int(self._session.get_modelmeta().custom_metadata_map.get("max_len", max_len)))
        self.hidden_size = int(self._session.get_outputs()[0].shape[2])

    def encode(self, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        (hidden,) = self._session.run(("hidden",), {"tokens": tokens, "lengths": lengths})
        return np.asarray(hidden)

    def close(self) -> None:
        self._session = None
        gc.collect()  # what refers to itself would keep the weights until some later collection


class OnnxEncoderSession:
    """An EncoderSession over an exported encoder: input_ids, attention_mask and what else it names.

    `alone` is for graphs in which the texts of a batch change each other. Errors: InvalidModelFile for a file that is
    no encoder of tokens.
    """

    def __init__(self, graph: Path, *, alone: bool, max_len: int, threads: int) -> None:
        try:
            self._session: Any = open_session(graph, threads)
        except Exception as error:  # the library has a class for each of its status codes, without a common root
            reason = str(error).splitlines()[0][:300]
            raise InvalidModelFile(f"{graph}: ONNX Runtime cannot load it: {reason}") from error
        self.max_len = max_len
        self.alone = alone
        self._inputs = {value.name: _type(graph, value) for value in self._session.get_inputs()}
        outputs = {value.name: value.shape for value in self._session.get_outputs()}
        self._output = next((name for name in _STATES if len(outputs.get(name) or ()) == 3), "")
        if "input_ids" not in self._inputs or not self._output:
            raise InvalidModelFile(
                f"{graph}: an encoder takes input_ids and gives one of {', '.join(_STATES)} [batch, length, hidden]; "
                f"this graph takes {', '.join(self._inputs)} and gives {', '.join(outputs)}"
            )
        size = outputs[self._output][2]
        self.hidden_size = size if isinstance(size, int) else self._probe()

    def encode(self, tokens: NDArray[np.int64], lengths: NDArray[np.int32]) -> NDArray[np.float32]:
        places = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
        known = {
            "input_ids": tokens,
            "attention_mask": places < lengths[:, None],
            "token_type_ids": np.zeros_like(tokens),
            "position_ids": places,
        }
        feeds = {name: np.ascontiguousarray(known[name], kind) for name, kind in self._inputs.items()}
        (hidden,) = self._session.run((self._output,), feeds)
        return np.asarray(hidden, np.float32)

    def close(self) -> None:
        self._session = None
        gc.collect()

    def _probe(self) -> int:
        """The hidden size of a graph that does not declare it."""
        return int(self.encode(np.zeros((1, 1), np.int64), np.ones(1, np.int32)).shape[2])


def _type(graph: Path, value: Any) -> Any:
    names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
    if value.name not in names or value.type not in _TYPES:
        raise InvalidModelFile(
            f"{graph}: input {value.name} of {value.type} is not one that an encoder of tokens has; "
            f"known are {', '.join(names)}"
        )
    return _TYPES[value.type]
