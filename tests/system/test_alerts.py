"""Alerts that fire because what they are about has really happened to a running narthex."""

import asyncio
import os
import resource
import signal
import threading

import pytest
import yaml
from narthex.settings import Address
from narthex_server.metrics.locks import LockMetrics
from narthex_server.metrics.registry import new_registry, served
from narthex_server.sync.locks import Locks

from tests.system.command import done
from tests.system.conftest import ROOT, SLOTS, WAITING, Stack
from tests.system.prometheus import DEPLOY, watching

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

RULES = DEPLOY / "prometheus"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load((RULES / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}


async def test_rules_are_right_and_fire_when_they_should():
    for command in (
        ["check", "rules", "--lint-fatal", "rules.yml", "alerts.yml"],
        ["check", "config", "--syntax-only", "prometheus.yml"],
        ["test", "rules", "alerts_test.yml"],
    ):
        await done("promtool", *command, cwd=RULES)


async def test_the_timing_of_every_alert_is_tested():
    tested = {
        case["alertname"]
        for test in yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert tested == set(ALERTS)


async def test_every_alert_has_a_severity_and_a_place_in_the_runbook():
    runbook = (ROOT / "docs" / "operations.md").read_text("utf-8")
    for name, rule in ALERTS.items():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
        assert rule["annotations"]["runbook_url"] == f"docs/operations.md#{name.lower()}"
        assert f"\n### {name}\n" in runbook


async def test_an_upstream_that_cannot_be_started(stack: Stack):
    alert = await stack.prometheus.firing("NarthexUpstreamDown", server="absent")
    assert alert["labels"]["severity"] == "warning"
    assert "absent" in alert["annotations"]["summary"]


async def test_a_remote_engine_that_is_not_there(stack: Stack):
    await stack.prometheus.firing("NarthexModelFailed", model_name="far")


async def test_a_tool_that_breaks_again_and_again(stack: Stack):
    async def broken():
        answer = await stack.call("shaky__internal")
        assert "error" in answer or answer["result"]["isError"]
        await asyncio.sleep(0.1)

    async with stack.busy(broken, 1):
        await stack.prometheus.firing("NarthexUpstreamBreakerOpen", server="shaky")
        await stack.prometheus.firing("NarthexToolErrors", server="shaky")
        await stack.prometheus.firing("NarthexGrpcErrors")


async def test_more_work_than_fits(stack: Stack):
    async def chat():
        answer = await stack.long_chat()
        assert answer.status_code == 200, answer.text

    async with stack.busy(chat, 4 * SLOTS):
        await stack.prometheus.firing("NarthexQueueGrowing", pool="model/demo")
        await stack.prometheus.firing("NarthexKvCacheFull", model_name="demo")
    await stack.prometheus.resolved("NarthexQueueGrowing")


async def test_more_work_than_may_wait(stack: Stack):
    async with stack.busy(stack.long_chat, 4 * WAITING):
        await stack.prometheus.firing("NarthexLotRefusing", pool="model/demo", reason="QUEUE_FULL")


async def test_a_lock_that_is_waited_for_too_long(tmp_path):
    """The server's own locks and their metrics, in a process whose threads hold one for 10 ms at a time."""
    registry, locks, over = new_registry(), Locks("metered"), threading.Event()
    LockMetrics(registry, locks.readings)
    lock = locks.mutex("kv_cache")

    def hold():
        while not over.is_set():
            with lock:
                over.wait(0.01)

    with served(registry, Address("127.0.0.1", 0)) as port:
        targets = dict.fromkeys(("narthex-server", "narthex-bridge"), f"127.0.0.1:{port}")
        async with watching(tmp_path, targets) as prometheus:
            threads = [asyncio.create_task(asyncio.to_thread(hold)) for _ in range(3)]
            try:
                await prometheus.firing("NarthexLockWaitHigh", lock="kv_cache")
            finally:
                over.set()
                await asyncio.gather(*threads)


async def test_a_file_of_upstreams_that_is_wrong(stack: Stack):
    file = stack.folder / "mcp.json"
    right = file.read_text()
    file.write_text("{")
    try:
        await stack.prometheus.firing("NarthexSettingsRejected")
    finally:
        file.write_text(right)


async def test_a_record_of_calls_that_cannot_be_written(stack: Stack):
    pid = stack.server["pid"]
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))  # as a disk that is full
    try:
        assert "result" in await stack.call("count_tokens", text="one that is not recorded")
        await stack.prometheus.firing("NarthexAuditFailing")
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
    await stack.prometheus.resolved("NarthexAuditFailing")


@pytest.mark.parametrize("process", ["server", "bridge"])
async def test_descriptors_that_run_out(stack: Stack, process):
    pid = getattr(stack, process)["pid"]
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)

    async def leave_few():
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{pid}/fd")) + 4, before[1]))
        await asyncio.sleep(0.2)

    try:
        async with stack.busy(leave_few, 1):
            await stack.prometheus.firing("NarthexDescriptorsShort", job=f"narthex-{process}")
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    await stack.prometheus.resolved("NarthexDescriptorsShort")


@pytest.mark.parametrize("process", ["server", "bridge"])
async def test_an_event_loop_that_stands_still(stack: Stack, process):
    pid = getattr(stack, process)["pid"]

    async def stutter():
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(0.4)
        finally:
            os.kill(pid, signal.SIGCONT)
        await asyncio.sleep(0.3)

    async with stack.busy(stutter, 1):
        await stack.prometheus.firing("NarthexEventLoopSlow", job=f"narthex-{process}")


async def test_a_server_that_is_gone(stack: Stack):
    """The last here: nothing comes back."""
    os.kill(stack.server["pid"], signal.SIGKILL)
    await stack.prometheus.firing("NarthexTargetDown", job="narthex-server")

    async def chat_in_vain():
        assert (await stack.chat()).status_code >= 500

    async with stack.busy(chat_in_vain, 1):
        await stack.prometheus.firing("NarthexBridgeErrors")
    os.kill(stack.bridge["pid"], signal.SIGKILL)
    await stack.prometheus.firing("NarthexTargetDown", job="narthex-bridge")
