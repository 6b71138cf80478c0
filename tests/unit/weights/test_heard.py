import numpy as np
from narthex_server.progress import Stage
from narthex_server.weights.formats import F32
from narthex_server.weights.heard import HeardWeights
from narthex_server.weights.tensors import StoredTensor


class Two:
    """Two tensors, one three times as large as the other."""

    tensors = {  # noqa: RUF012 (never changed)
        name: StoredTensor(name, (rows, 4), F32, np.full((rows, 16), rows, np.uint8))
        for name, rows in (("a", 1), ("b", 3))
    }

    def names(self):
        return self.tensors

    def find(self, name):
        return self.tensors.get(name)


def test_bytes_that_are_taken_are_told_once_and_come_unchanged():
    told = []
    heard = HeardWeights(Two(), lambda stage, fraction: told.append((stage, fraction)))
    assert list(heard.names()) == ["a", "b"] and heard.find("c") is None and not told
    for name in ("b", "b", "a"):
        found = heard.find(name)
        assert found.shape == Two.tensors[name].shape
        np.testing.assert_array_equal(found.raw, Two.tensors[name].raw)
    assert told == [(Stage.BUILD, 0.75), (Stage.BUILD, 0.75), (Stage.BUILD, 1.0)]
