"""The example in the guide to policies does what the guide says, as it is explained and as it runs."""

import json
import re
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from narthex_server.metrics.policy import PolicyMetrics
from narthex_server.policy import main
from narthex_server.tools.policy.condition import NOT, PREDICATES
from prometheus_client import CollectorRegistry

from tests.e2e.policed import policed

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "policy.md").read_text("utf-8")
EXAMPLE = GUIDE.split("```toml\n")[1].split("```")[0]
GULLIBLE = Path(__file__).parent / "upstreams" / "servers" / "gullible.py"


@dataclass(frozen=True)
class Row:
    """What the guide says of a call: `rule` is empty where none fits."""

    caller: str
    tool: str
    arguments: str
    effect: str
    rule: str

    @property
    def tenant(self) -> str:
        return "other" if self.caller == "eve" else "acme"


def rows(root: Path) -> list[Row]:
    """The table behind the example, with `root` for /srv."""
    lines = GUIDE.split("| Caller | Tool | Arguments | Decision |\n")[1].split("\n\n")[0].splitlines()[1:]
    found = [re.fullmatch(r"\| (\S+) \| `(\S+)` \| `(.+)` \| (\w+)(?:: (.+))? \|", line) for line in lines]
    return [Row(caller, tool, text.replace("/srv", str(root)), effect, rule or "")
            for caller, tool, text, effect, rule in (row.groups() for row in found)]  # fmt: skip


@pytest.fixture
def root(tmp_path) -> Path:
    """What the example has below /srv."""
    root = tmp_path.resolve()
    for tenant in ("acme", "other"):
        (root / "files" / tenant).mkdir(parents=True)
        (root / "files" / tenant / "plan.txt").write_text("a plan")
    (root / "repositories" / "site").mkdir(parents=True)
    (root / "policy.toml").write_text(EXAMPLE.replace("/srv", str(root)))
    return root


def test_explained(root, capsys):
    assert len(rows(root)) == 15
    for row in rows(root):
        call = ["--as", row.caller, "--tenant", row.tenant, "--tool", row.tool, "--arguments", row.arguments]
        code = main(["explain", *call, str(root / "policy.toml")])
        said = capsys.readouterr().out.splitlines()[0]
        assert said == (f"{row.effect}: rule {row.rule!r}" if row.rule else "deny: no rule fits"), row
        assert code == (0 if row.effect == "allow" else 5)


async def test_running(root):
    gullible = {"command": sys.executable, "args": [str(GULLIBLE), str(root)]}
    servers = {
        "files": {"command": sys.executable, "args": ["-m", "narthex_mcp.workspace", str(root / "files")]},
        "git": {"command": sys.executable, "args": ["-m", "mcp_server_git"]},
        "time": {"command": sys.executable, "args": ["-m", "mcp_server_time"]},
        "shop": gullible,
        "web": gullible,
    }
    wanted = {"files__read_file", "git__git_commit", "shop__query", "web__fetch", "time__get_current_time"}
    async with policed(root, servers, (root / "policy.toml").read_text(), wanted) as stack, stack.stub() as stub:
        for row in rows(root):
            if row.effect == "allow":
                assert (await stack.call(stub, row.caller, row.tool, **json.loads(row.arguments)))[-1].HasField(
                    "result"
                )
                continue
            code, reason, metadata, _ = await stack.refused(stub, row.caller, row.tool, **json.loads(row.arguments))
            if reason == "TOOL_NOT_FOUND":
                assert row.effect == "deny" and not row.rule and row.tool not in await stack.names(stub, row.caller)
            else:
                assert code is grpc.StatusCode.PERMISSION_DENIED and metadata["rule"] == (row.rule or "default"), row
                assert reason == ("POLICY_DENIED" if row.effect == "deny" else "APPROVAL_UNAVAILABLE"), row


def test_the_guide_knows_every_key_predicate_and_metric():
    named = set(re.findall(r"`([a-z_]+)(?: = |`)", GUIDE))
    keys = {key for rule in tomllib.loads(EXAMPLE)["rules"] for key in rule}
    assert {*PREDICATES, NOT, *keys, "items"} <= named
    registry = CollectorRegistry()
    PolicyMetrics(registry)
    listed = (DOCS / "metrics.md").read_text("utf-8").split("\n## Policy\n")[1].split("\n## ")[0]
    assert {f"{metric.name}_total" for metric in registry.collect()} == set(re.findall(r"`(narthex_\w+)\{", listed))
