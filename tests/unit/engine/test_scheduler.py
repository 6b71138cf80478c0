import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest
from narthex_server.engine.scheduler import Chunk, Scheduler
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots


@pytest.fixture
def scheduler(decoder):
    return Scheduler(Slots(decoder), EngineOptions(prefill_tokens=64, prefill_seconds=0.1))


def admit(scheduler, key, size):
    sequence = Sequence(key, EngineRequest(str(key), tuple((key * 7 + n) % 50 for n in range(size)), 5), 0.0)
    scheduler.waiting.append(sequence)
    return scheduler.admit(0.0)


def test_the_budget_goes_to_prompts_in_the_order_they_came(scheduler):
    first, second, third = (admit(scheduler, key, 40) for key in range(3))
    assert scheduler.schedule().chunks == [Chunk(first, 40), Chunk(second, 24)]
    assert third.slot == 2


def test_more_requests_than_slots_wait(scheduler):
    assert all(admit(scheduler, key, 4) for key in range(4))
    assert admit(scheduler, 5, 4) is None and len(scheduler.waiting) == 1


@pytest.mark.parametrize(("seconds_a_token", "budget"), [(0.0001, 64), (0.002, 32), (0.01, 16), (1, 16)])
def test_beside_running_streams_a_prompt_takes_what_fits_the_time(scheduler, seconds_a_token, budget):
    stream = admit(scheduler, 0, 1)
    prompt = admit(scheduler, 1, 100)
    scheduler.timed(Chunk(prompt, 10), 10 * seconds_a_token)
    plan = scheduler.schedule()
    assert plan.rows == [stream] and plan.chunks == [Chunk(prompt, budget)]


def test_without_running_streams_a_prompt_takes_the_whole_budget(scheduler):
    prompt = admit(scheduler, 1, 100)
    scheduler.timed(Chunk(prompt, 10), 100)
    assert scheduler.schedule().chunks == [Chunk(prompt, 64)]
