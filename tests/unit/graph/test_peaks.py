import numpy as np
import pytest
from narthex_server.graph.peaks import Peaks

KEYS = np.array([[3.0, 1.0, 4.0, 2.0, 7.0, 5.0]], np.float32)
PAIRS = np.array([[4.0, 2.5, 6.0]], np.float32)


@pytest.mark.parametrize(
    ("rotated", "expected"),
    [
        pytest.param(0, KEYS[0], id="none rotates"),
        pytest.param(4, [5, np.sqrt(5), 5, np.sqrt(5), 7, 5], id="a part rotates"),
        pytest.param(6, [4, 2.5, 6, 4, 2.5, 6], id="all rotates"),
    ],
)
def test_keys_that_rotate_together_share_a_unit(rotated, expected):
    keys, values = Peaks(KEYS, PAIRS, 2 * KEYS).units(rotated)
    np.testing.assert_allclose(keys * 127, expected, rtol=1e-6)
    np.testing.assert_allclose(values * 127, 2 * KEYS[0], rtol=1e-6)
