import re
from pathlib import Path

import pytest
from narthex_server.policy import main

POLICY = """
[[rules]]
name = "no secrets"
effect = "deny"
message = "what is hidden stays so"
servers = ["files"]
arguments = {"/path" = {matches = "(.*/)?\\\\.[^./].*"}}

[[rules]]
name = "files"
effect = "allow"
tenants = ["acme"]
servers = ["files"]
tools = ["read_*"]
rate = "2/hour"
concurrency = 3
per = "tenant"
timeout = 5
arguments = {"/path" = {paths_under = "%s"}}

[[rules]]
name = "changes"
effect = "confirm"
keys = ["ann"]
annotations = {destructiveHint = true}

[[rules]]
name = "guides"
effect = "allow"
servers = ["docs"]
prompts = ["*"]
resources = ["guide:*"]
"""


@pytest.fixture
def policy(tmp_path):
    file = tmp_path / "policy.toml"
    file.write_text(POLICY % tmp_path)
    return str(file)


@pytest.fixture
def explain(policy, capsys):
    """Runs `explain` and gives its exit code and its lines."""

    def run(*words: str) -> tuple[int, list[str]]:
        code = main(["explain", *words, "--", policy])
        return code, capsys.readouterr().out.splitlines()

    return run


def test_the_command_line_passes_everything_on(narthex, policy):
    checked = narthex("policy", "check", policy)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.splitlines() == [
        f"{policy}: 4 rules; what none of them fits is denied",
        "  deny: no secrets",
        "  allow: files",
        "  confirm: changes",
        "  allow: guides",
    ]
    call = ("--tool", "files__read_file", "--tenant", "acme", "--arguments", '{"path": "a.txt"}')
    assert narthex("policy", "explain", policy, *call).returncode == 5
    allowed = narthex("policy", "explain", *call, "--working-directory", str(Path(policy).parent), policy)
    assert allowed.returncode == 0 and allowed.stdout.startswith("allow: rule 'files'\n")
    assert narthex("policy", "explain", policy).returncode == 2


def test_help_and_guide_have_every_option(narthex):
    usage = set(re.findall(r"--[a-z-]+", narthex("policy", "explain", "--help").stdout)) - {"--help"}
    section = (Path(__file__).parents[3] / "docs" / "policy.md").read_text("utf-8").split("\n## Trying it\n")[1]
    table = {
        line.split("`")[1].split()[0] for line in section.split("\n## ")[0].splitlines() if line.startswith("| `--")
    }
    assert usage == table


def test_it_says_what_follows_from_the_rule(explain, tmp_path):
    call = ("--tool", "files__read_file", "--tenant", "acme")
    assert explain(*call, "--arguments", f'{{"path": "{tmp_path}/a"}}') == (
        0,
        [
            "allow: rule 'files'",
            "  rate: 2/hour for each tenant",
            "  concurrency: 3 at once for each tenant",
            "  timeout: 5 s",
            "  rule 'no secrets' does not fit: arguments.\"/path\" does not hold",
        ],
    )
    assert explain(*call, "--arguments", '{"path": ".env"}') == (
        5,
        ["deny: rule 'no secrets'", "  message: what is hidden stays so"],
    )


def test_it_says_why_no_other_rule_decides(explain):
    code, lines = explain("--tool", "files__read_file", "--tenant", "acme", "--arguments", '{"path": "~/a"}')
    assert (code, lines[0]) == (5, "deny: no rule fits")
    assert "  rule 'files' does not fit: arguments.\"/path\" cannot be told" in lines
    code, lines = explain("--tool", "files__write", "--tenant", "acme", "--arguments", '{"path": "/etc/a"}')
    assert "  rule 'files' does not fit: tools" in lines and "  rule 'changes' does not fit: keys" in lines
    code, lines = explain("--tool", "files__read_file", "--tenant", "other")
    assert "  rule 'files' does not fit: tenants" in lines
    assert "  not listed for this caller, and answered as if it were not there" in lines


def test_of_an_upstream_that_the_name_does_not_tell(explain):
    destructive = ("--annotations", '{"destructiveHint": true}')
    assert explain("--tool", "drop", "--as", "ann", *destructive)[1][0] == "confirm: rule 'changes'"
    assert explain("--tool", "drop", "--as", "ann")[0] == 5
    assert explain("--prompt", "docs__greet")[0] == explain("--resource", "guide:a", "--server", "docs")[0] == 0
    assert explain("--resource", "guide:a")[0] == explain("--resource", "guide:%2e%2e/b", "--server", "docs")[0] == 5


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["explain", "--tool", "t", "--arguments", "[", "{policy}"], "--arguments: arguments are not JSON"),
        (["explain", "--tool", "t", "--arguments", "[]", "{policy}"], "must be a JSON object"),
        (["explain", "--tool", "t", "--annotations", "{", "{policy}"], "--annotations: not JSON"),
        (["check", "{policy}/none"], "cannot be read: Not a directory"),
        (["check", "{policy}.none"], "cannot be read: No such file"),
        (["check", "{broken}"], "rules[0] ('a'): effect must be allow, deny or confirm, not 'maybe'"),
    ],
)
def test_what_cannot_be_used_is_a_usage_error(capsys, policy, tmp_path, words, told):
    (tmp_path / "broken.toml").write_text('[[rules]]\nname = "a"\neffect = "maybe"\n')
    places = {"policy": policy, "broken": str(tmp_path / "broken.toml")}
    made = [word.format(**places) if word.startswith("{p") or word.startswith("{b") else word for word in words]
    assert main(made) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [[], ["explain"], ["explain", "--tool", ""], ["explain", "--tool", "a", "--prompt", "b"]]
)
def test_a_question_is_about_one_thing(policy, words):
    with pytest.raises(SystemExit) as ended:
        main([*words, policy] if words else words)
    assert ended.value.code == 2
