from pathlib import Path

import pytest

pytestmark = pytest.mark.polyglot

CLIENT = Path(__file__).parents[3] / "clients" / "typescript"


async def test_stubs_generated_for_typescript_hold_a_chat(demo, program):
    assert (CLIENT / "node_modules").exists(), f"run `npm install` in {CLIENT} first (.ci/run does)"
    await program("npm", "run", "generate", cwd=CLIENT)
    await program("npm", "run", "build", cwd=CLIENT)
    said = await program("npm", "start", "--", "hello", f"http://{demo.grpc}", cwd=CLIENT)
    assert said.strip()
