import math

import numpy as np
from narthex_server.graph import rope


def test_tables_hold_the_angles_of_each_position():
    cosines, sines = rope.linear(10000.0, 8, 1.0).tables(5)
    assert cosines.shape == sines.shape == (5, 4)
    assert cosines[3, 1] == np.float32(math.cos(3 * 10000.0**-0.25))
    assert sines[3, 1] == np.float32(math.sin(3 * 10000.0**-0.25))


def test_linear_scaling_stretches_positions():
    plain, scaled = rope.linear(1e4, 16, 1.0).tables(9), rope.linear(1e4, 16, 4.0).tables(33)
    np.testing.assert_allclose(scaled[0][::4], plain[0], atol=1e-6)


def test_llama3_scaling_keeps_fast_pairs_and_divides_slow_ones():
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    base = np.array(rope.linear(5e5, 128, 1.0).frequencies)
    scaled = np.array(rope.llama3(5e5, 128, scaling).frequencies)
    waves = 2 * math.pi / base
    np.testing.assert_allclose(scaled[waves < 8192 / 4], base[waves < 8192 / 4])
    np.testing.assert_allclose(scaled[waves > 8192], base[waves > 8192] / 8)
    assert (np.diff(scaled) < 0).all()


def test_yarn_divides_slow_pairs_and_scales_attention():
    scaling = {"factor": 4.0, "original_max_position_embeddings": 32768}
    base = np.array(rope.linear(1e6, 128, 1.0).frequencies)
    scaled = rope.yarn(1e6, 128, scaling)
    assert scaled.frequencies[0] == base[0]
    np.testing.assert_allclose(scaled.frequencies[-1], base[-1] / 4)
    assert scaled.scale == 0.1 * math.log(4.0) + 1.0
