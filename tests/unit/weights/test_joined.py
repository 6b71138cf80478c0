import numpy as np
from narthex_server.weights.joined import Joiner


def test_rows_below_each_other_are_one_matrix(stored):
    parts = [stored("Q4_0", rows, 64) for rows in (3, 2)]
    joined = Joiner().join(parts)
    assert joined is not None and joined.shape == (5, 64)
    np.testing.assert_array_equal(joined.dense(), np.concatenate([part.dense() for part in parts]))


def test_what_is_stored_in_different_formats_is_not_joined(stored):
    assert Joiner().join([stored("Q4_0", 3, 64), stored("Q8_0", 3, 64)]) is None
