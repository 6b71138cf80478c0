import pytest
from narthex_server.errors import AlreadyExists, FailedPrecondition, InvalidRequest, NotFound
from narthex_server.tools.inputs import Answer, RunningCalls


def read(answer: Answer):
    if answer.result == {"bad": True}:
        raise ValueError
    return answer.result or answer.error


async def test_answers_arrive_and_what_is_left_is_counted():
    calls = RunningCalls()
    with (
        calls.enter("a", "", "r") as inputs,
        inputs.expect(read) as (one, first),
        inputs.expect(read) as (two, second),
    ):
        assert inputs.call_id == "r" and one != two
        assert calls.answer("a", "r", [Answer(two, result={"x": 1})]) == 1
        assert second.result() == {"x": 1} and not first.done()
        assert calls.answer("a", "r", []) == 1
        assert calls.answer("a", "r", [Answer(one, error={"code": 1})]) == 0
        assert first.result() == {"code": 1}


async def test_all_answers_are_taken_or_none():
    calls = RunningCalls()
    with calls.enter("a", "c", "r") as inputs, inputs.expect(read) as (one, first):
        for wrong, error in (
            ([Answer(one, result={}), Answer("nope", result={})], FailedPrecondition),
            ([Answer(one, result={"x": 1}), Answer(one, result={})], InvalidRequest),
            ([Answer(one, result={"bad": True})], InvalidRequest),
        ):
            with pytest.raises(error):
                calls.answer("a", "c", wrong)
            assert not first.done() and inputs.waiting == 1


async def test_nobody_answers_another_tenants_call_or_one_that_is_over():
    calls = RunningCalls()
    with calls.enter("a", "c", "r") as inputs:
        with inputs.expect(read) as (one, _), pytest.raises(NotFound):
            calls.answer("b", "c", [Answer(one, result={})])
        with pytest.raises(FailedPrecondition):
            calls.answer("a", "c", [Answer(one, result={})])
    with pytest.raises(NotFound):
        calls.answer("a", "c", [Answer(one, result={})])


def test_names_are_unique_within_a_tenant():
    calls = RunningCalls()
    with calls.enter("a", "c", "r"), calls.enter("b", "c", "r"), calls.enter("a", "", "r") as first:
        with pytest.raises(AlreadyExists), calls.enter("a", "c", "r"):
            pass
        with calls.enter("a", "", "r") as second:
            assert first.call_id != second.call_id
    with calls.enter("a", "c", "r"):
        pass


@pytest.mark.parametrize("name", ["a b", "ä", "x" * 129, "\n"])
def test_a_name_is_visible_ascii(name):
    with pytest.raises(InvalidRequest), RunningCalls().enter("a", name, "r"):
        pass
