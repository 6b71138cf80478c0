import asyncio
import os
import signal
import sys

import pytest
from narthex.cli.supervisor import Backoff, supervise

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")

QUICK = Backoff(first=0.01)


def started(programs, grace=20.0):
    return asyncio.create_task(supervise(programs, lambda: "all ready", grace=grace, backoff=QUICK))


async def ready(*programs):
    async with asyncio.timeout(20):
        return [await asyncio.shield(program.ready) for program in programs]


async def ended(running):
    async with asyncio.timeout(30):
        return await running


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
async def test_a_signal_ends_every_program(nursery, number, code):
    programs = [nursery.program("server"), nursery.program("bridge")]
    running = started(programs)
    children = [await nursery.born(), await nursery.born()]
    await ready(*programs)
    os.kill(os.getpid(), number)
    assert await ended(running) == code
    for child in children:
        await nursery.dead(child)


COPIED = """
import os
os.register_at_fork(after_in_child=lambda: os._exit(9))  # where a lock of a lost thread would stop it for ever
"""


async def test_nothing_of_the_supervisor_runs_in_a_copy_of_its_process(nursery):
    supervisor = await nursery.supervisor(COPIED)
    child = await nursery.born()
    supervisor.terminate()
    assert await ended(supervisor.wait()) == 0
    await nursery.dead(child)


async def test_tells_when_all_are_ready_and_passes_other_output_on(nursery, capfd):
    programs = [nursery.program("server"), nursery.program("bridge")]
    running = started(programs)
    await ready(*programs)
    os.kill(os.getpid(), signal.SIGTERM)
    await ended(running)
    assert sorted(capfd.readouterr().out.splitlines()) == ["a line of its own", "a line of its own", "all ready"]


async def test_a_program_that_dies_is_started_again_with_its_port_while_the_other_stays(nursery):
    server, bridge = nursery.program("server"), nursery.program("bridge")
    running = started([server, bridge])
    children = {child.name: child for child in (await nursery.born(), await nursery.born())}
    await ready(server, bridge)
    os.kill(children["server"].pid, signal.SIGKILL)
    again = await nursery.born()
    assert (again.name, again.words) == ("server", ("port=7",))
    os.kill(children["bridge"].pid, 0)  # alive
    os.kill(os.getpid(), signal.SIGTERM)
    assert await ended(running) == 0
    await nursery.dead(again)
    await nursery.dead(children["bridge"])


@pytest.mark.parametrize(("ended_with", "code"), [("4", 4), ("3", 3), ("2", 2), ("1", 1), ("77", 1)])
async def test_a_program_that_never_gets_ready_ends_the_others_and_gives_its_exit_code(
    nursery, ended_with, code, capfd
):
    running = started([nursery.program("server"), nursery.program("bridge", "fails", ended_with)])
    assert await ended(running) == code
    assert f"bridge ended with exit code {ended_with} before it was ready" in capfd.readouterr().err


async def test_a_program_waits_for_the_one_it_comes_after(nursery):
    server = nursery.program("server")
    running = started([server, nursery.program("bridge", after=server)])
    assert [(await nursery.born()).name, (await nursery.born()).name] == ["server", "bridge"]
    os.kill(os.getpid(), signal.SIGTERM)
    await ended(running)


async def test_a_program_that_ignores_the_signal_is_killed_after_the_grace(nursery, capfd):
    deaf = nursery.program("server", "deaf")
    running = started([deaf], grace=0.05)
    child = await nursery.born()
    await ready(deaf)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await ended(running) == 0
    await nursery.dead(child)
    assert "did not end within" in capfd.readouterr().err


async def test_a_second_signal_kills_at_once(nursery):
    deaf = nursery.program("server", "deaf")
    running = started([deaf], grace=60)
    child = await nursery.born()
    await ready(deaf)
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert await ended(running) == 0
    await nursery.dead(child)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of its parent's death")
async def test_a_killed_supervisor_leaves_no_orphans(nursery):
    supervisor = await nursery.supervisor()
    child = await nursery.born()
    supervisor.kill()
    await supervisor.wait()
    await nursery.dead(child)
