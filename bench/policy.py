"""What a decision of the policy costs: python bench/policy.py

A hundred rules about other tools, then the one that decides; times in microseconds, each the best of several rounds.
"""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from time import perf_counter

from narthex_server.principal import Principal
from narthex_server.tools.policy.document import read_policy
from narthex_server.tools.policy.policy import Policy
from narthex_server.tools.policy.step import PolicyStep
from narthex_server.tools.policy.subject import Subject, subject_of
from narthex_server.tools.step import Invocation
from narthex_server.tools.tool import CallContext, Tool, ToolEvent, ToolResult

CALLER = Principal("ci", "acme")
TOOL = Tool(
    "files__read_file", "", "", b"{}", annotations=b'{"readOnlyHint": true}', server="files", own_name="read_file"
)
ARGUMENTS = {
    "path": "/srv/data/a.txt",
    "sql": "select a, b from t where c = 1",
    "url": "https://api.example.com/v1",
    "n": 3,
}
LAST = {
    "no predicate": "",
    "equals and at_most": 'arguments = {"/n" = {at_most = 10, not = {equals = 2}}}',
    "matches": 'arguments = {"/path" = {matches = "/srv/[a-z/.]+"}}',
    "hosts": 'arguments = {"/url" = {hosts = ["*.example.com", "example.org:443"]}}',
    "paths_under": 'arguments = {"/path" = {paths_under = ["%s"]}}',
    "sql": 'arguments = {"/sql" = {sql = {dialect = "sqlite", allow = ["select"]}}}',
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.txt"
        file.touch()
        print("| the rule that decides, after 100 others | decision | the whole step |\n|---|---|---|")
        for name, condition in LAST.items():
            arguments = ARGUMENTS | {"path": str(file)} if name == "paths_under" else ARGUMENTS
            policy = read_policy(rules(condition.replace("%s", folder)).encode(), "bench")
            decide = partial(decided, policy, arguments)
            assert decide() == "last"
            decision = best(decide, 2000)
            print(f"| {name} | {decision * 1e6:.1f} µs | {asyncio.run(step(policy, arguments)) * 1e6:.1f} µs |")
        policy = read_policy(rules("").encode(), "bench")
        number = iter(range(10**9))
        first = best(lambda: policy.plan(CALLER, Subject("tools", f"files__read{next(number)}", "files", "x")), 2000)
        print(f"\nthe first decision about a caller and a tool: {first * 1e6:.1f} µs")


def decided(policy: Policy, arguments: dict[str, object]) -> str:
    return policy.plan(CALLER, subject_of(TOOL)).decide(arguments, "").name


def rules(condition: str) -> str:
    others = "".join(
        f'[[rules]]\nname = "{number}"\neffect = "deny"\ntenants = ["acme", "t{number}*"]\nservers = ["s{number}"]\n'
        f'tools = ["x{number}_*", "y{number}"]\narguments = {{"/n" = {{equals = {number}}}}}\n'
        for number in range(100)
    )
    return f'{others}[[rules]]\nname = "last"\neffect = "allow"\nservers = ["files"]\ntools = ["read_*"]\n{condition}\n'


def best(work: Callable[[], object], times: int) -> float:
    rounds = []
    for _ in range(7):
        began = perf_counter()
        for _ in range(times):
            work()
        rounds.append((perf_counter() - began) / times)
    return min(rounds)


class Silent:
    def on_decision(self, rule: str, effect: str) -> None: ...

    on_approval = on_limit = on_reload = on_decision


class Fixed:
    def __init__(self, policy: Policy) -> None:
        self.policy = policy


async def answer(call: Invocation) -> AsyncGenerator[ToolEvent]:
    yield ToolResult(b"[]")


async def step(policy: Policy, arguments: dict[str, object], times: int = 1000) -> float:
    """What the step adds to a call."""
    around = PolicyStep(Fixed(policy), Silent())

    async def with_policy() -> None:
        async for _ in around.around(Invocation(TOOL, b"{}", arguments, CallContext(CALLER, "bench")), answer):
            pass

    async def without() -> None:
        async for _ in answer(Invocation(TOOL, b"{}", arguments, CallContext(CALLER, "bench"))):
            pass

    costs = []
    for work in (with_policy, without):
        rounds = []
        for _ in range(5):
            began = perf_counter()
            for _ in range(times):
                await work()
            rounds.append((perf_counter() - began) / times)
        costs.append(min(rounds))
    return costs[0] - costs[1]


if __name__ == "__main__":
    main()
