import pytest
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.pace import Pace, Run
from narthex_server.engine.request import EngineRequest
from narthex_server.engine.scheduler import Chunk, Scheduler
from narthex_server.engine.sequence import Sequence
from narthex_server.engine.slots import Slots
from narthex_server.engine.speculation import Speculation


@pytest.fixture
def pace():
    return Pace()


@pytest.fixture
def scheduler(decoder, pace):
    slots = Slots(decoder)
    options = EngineOptions(prefill_tokens=64, longest_pause=0.01)
    return Scheduler(slots, pace, Speculation(slots, pace, False), options)


def admit(scheduler, key, size):
    sequence = Sequence(key, EngineRequest(str(key), tuple((key * 7 + n) % 50 for n in range(size)), 5), 0.0)
    scheduler.waiting.join(sequence)
    return scheduler.admit(0.0)


def test_the_budget_goes_to_prompts_in_the_order_they_came(scheduler):
    first, second, third = (admit(scheduler, key, 40) for key in range(3))
    assert scheduler.schedule().chunks == [Chunk(first, 40), Chunk(second, 24)]
    assert third.slot == 2


def test_more_requests_than_slots_wait(scheduler):
    assert all(admit(scheduler, key, 4) for key in range(4))
    assert admit(scheduler, 5, 4) is None and len(scheduler.waiting) == 1


@pytest.mark.parametrize(("seconds_a_token", "budget"), [(0.0001, 64), (0.0006, 32), (0.001, 16), (0.002, 8), (1, 4)])
def test_beside_running_streams_a_prompt_takes_about_two_decode_steps(scheduler, pace, seconds_a_token, budget):
    stream = admit(scheduler, 0, 1)
    prompt = admit(scheduler, 1, 100)
    pace.note(Run.DECODE, 1, 0.01)
    for size in (4, 8, 16, 32, 64):
        pace.note(Run.CHUNK, size, size * seconds_a_token)
    plan = scheduler.schedule()
    assert plan.rows == [stream] and plan.chunks == [Chunk(prompt, budget)]


def test_where_two_steps_take_less_the_longest_pause_counts(scheduler, pace):
    admit(scheduler, 0, 1)
    prompt = admit(scheduler, 1, 100)
    pace.note(Run.DECODE, 1, 0.001)
    for size in (4, 8, 16, 32):
        pace.note(Run.CHUNK, size, size * 0.0006)
    assert scheduler.schedule().chunks == [Chunk(prompt, 16)]


def test_sizes_are_tried_one_after_the_other_until_one_takes_too_long(scheduler, pace):
    admit(scheduler, 0, 1)
    prompt = admit(scheduler, 1, 100)
    pace.note(Run.DECODE, 1, 0.01)
    for size, seconds in ((4, 0.005), (8, 0.008), (16, 0.012), (32, 0.03)):
        assert scheduler.schedule().chunks == [Chunk(prompt, size)]
        pace.note(Run.CHUNK, size, seconds)
    assert scheduler.schedule().chunks == [Chunk(prompt, 16)]


def test_without_running_streams_a_prompt_takes_the_whole_budget(scheduler, pace):
    prompt = admit(scheduler, 1, 100)
    pace.note(Run.CHUNK, 64, 100)
    assert scheduler.schedule().chunks == [Chunk(prompt, 64)]
