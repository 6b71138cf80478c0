import pytest
from narthex_server.tools.upstream.pace import Pace


def test_a_burst_passes_and_what_follows_comes_evenly():
    now = 100.0
    pace = Pace(10.0, 5, lambda: now)
    assert [pace.take() for _ in range(5)] == [0.0] * 5
    assert pace.take() == pytest.approx(0.1)
    assert pace.take() == pytest.approx(0.2)
    now += 0.2
    assert pace.take() == pytest.approx(0.1)
    now += 60
    assert [pace.take() for _ in range(5)] == [0.0] * 5
    assert pace.take() == pytest.approx(0.1)
