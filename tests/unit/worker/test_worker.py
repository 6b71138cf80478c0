import logging
import threading

import pytest
from narthex_server import worker as module
from narthex_server.errors import Unavailable
from narthex_server.worker import Worker


async def test_it_refuses_work_but_while_its_thread_runs():
    worker: Worker[str] = Worker("clerk")
    with pytest.raises(Unavailable, match="the clerk is not started"):
        worker.check()
    worker.start(lambda: None)
    worker.check()
    worker.ended()
    with pytest.raises(Unavailable, match="the clerk has died; the log says why; retry later"):
        worker.check()
    assert await worker.stop(0, "stop", running=lambda: 0)
    assert not await worker.stop(0, "stop", running=lambda: 0)


async def test_messages_before_the_last_are_sent_at_once_and_the_last_when_the_grace_is_over(caplog):
    caplog.set_level(logging.INFO)
    worker: Worker[str] = Worker("clerk")
    worker.start(lambda: None)
    worker.idle.clear()
    worker.ended()
    assert await worker.stop(0, "drain", "stop", running=lambda: 3)
    assert [worker.inbox.get_nowait(), worker.inbox.get_nowait()] == ["drain", "stop"]
    assert "3 requests still running after 0 s are cancelled" in caplog.text


async def test_a_thread_that_hangs_is_left_behind(caplog, monkeypatch):
    monkeypatch.setattr(module, "STOP_SECONDS", 0.01)
    worker, gate = Worker("clerk"), threading.Event()
    worker.start(gate.wait)
    assert not await worker.stop(0, "stop", running=lambda: 0)
    assert "the thread of the clerk is stuck" in caplog.text
    gate.set()
