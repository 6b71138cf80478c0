"""A process that is killed while it writes, also between two files."""

import os
import subprocess
import sys

import pytest
from narthex_server.audit.chain import Chain
from narthex_server.audit.file import files
from narthex_server.audit.verification import Verification

WRITES = """
import sys
from pathlib import Path
from narthex_server.audit.chain import Chain
from narthex_server.audit.log import AuditLog, Bounds
log = AuditLog(Path(sys.argv[1]), Chain(), Bounds(int(sys.argv[2])))
log.open()
while True:
    log.append([b'{"kind":"tool"}'] * 3)
    print(log.head.seq, flush=True)
"""


def verdict(folder):
    return Verification({"": Chain()}).run(folder)


@pytest.mark.parametrize("file_bytes", [1, 1 << 30])
def test_all_that_was_written_is_there_after_a_kill_and_the_chain_goes_on(folder, file_bytes):
    for appends in (1, 7, 20):
        command = [sys.executable, "-c", WRITES, str(folder), str(file_bytes)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
            for _ in range(appends):
                told = int(process.stdout.readline())
            process.kill()
            rest = process.stdout.read().split("\n")[:-1]
        told = int(rest[-1]) if rest else told
        found = verdict(folder)
        assert found.fault is None
        assert found.head.seq in (told, told + 3), "an append is there as a whole or not at all"
    assert (len(files(folder)) > 10) == (file_bytes == 1)


@pytest.mark.parametrize("file_bytes", [1, 1 << 30])
def test_what_is_written_meanwhile_does_not_look_like_a_fault(folder, file_bytes):
    command, found = [sys.executable, "-c", WRITES, str(folder), str(file_bytes)], []
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            while process.stdout.readline() and len(found) < 10:
                found.append(verdict(folder))
        finally:
            process.kill()
    assert [one.fault for one in found] == [None] * 10
    assert found[-1].head.seq > found[0].head.seq
