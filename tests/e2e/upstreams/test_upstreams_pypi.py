"""Forwarding to the reference servers of the Python Package Index."""

import json
import subprocess
from datetime import datetime

import pytest
from narthex_server.errors import InvalidToolArguments
from narthex_server.tools.server import ServerState

from tests.e2e.installed import fetch, python
from tests.e2e.site import site


def text(events) -> str:
    assert not events[-1].is_error, events[-1].content
    return json.loads(events[-1].content)[0]["text"]


@pytest.fixture
def repository(tmp_path):
    """One commit, a change of its file that is not staged, and a file that nobody added."""

    def git(*arguments: str) -> None:
        author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *author, *arguments], check=True)

    git("init", "--quiet", "--initial-branch", "main")
    (tmp_path / "tea.txt").write_text("oolong\n")
    git("add", "tea.txt")
    git("commit", "--quiet", "--message", "Buy some tea")
    (tmp_path / "tea.txt").write_text("sencha\n")
    (tmp_path / "cups.txt").write_text("two\n")
    return tmp_path


async def test_git(gateway, repository):
    async with gateway({"git": python("mcp_server_git")}) as running:
        assert running.status("git").state is ServerState.READY

        async def git(tool: str, **arguments: object) -> str:
            asked = {"repo_path": str(repository), **arguments}
            return text(await running.call(f"git__git_{tool}", json.dumps(asked).encode()))

        status = await git("status")
        assert "On branch main" in status and "modified:   tea.txt" in status and "cups.txt" in status
        diff = await git("diff_unstaged")
        assert "-oolong" in diff and "+sencha" in diff
        log = await git("log", max_count=1)
        assert "Ada" in log and "Buy some tea" in log
        await git("add", files=["tea.txt"])
        await git("commit", message="Buy other tea")
        assert "Buy other tea" in await git("log", max_count=1)
        assert "+sencha" in await git("diff", target="HEAD~1")
        nowhere = json.dumps({"repo_path": str(repository / "nowhere")}).encode()
        assert (await running.call("git__git_status", nowhere))[-1].is_error


async def test_time(gateway):
    async with gateway({"time": python("mcp_server_time", "--local-timezone", "Asia/Tokyo")}) as running:
        now = json.loads((await running.call("time__get_current_time", b'{"timezone":"UTC"}'))[-1].structured_content)
        assert abs(datetime.fromisoformat(now["datetime"]).timestamp() - datetime.now().timestamp()) < 60
        noon = b'{"source_timezone":"Asia/Tokyo","time":"12:00","target_timezone":"Asia/Kolkata"}'
        converted = json.loads((await running.call("time__convert_time", noon))[-1].structured_content)
        assert "T08:30" in converted["target"]["datetime"] and converted["time_difference"] == "-3.5h"
        assert (await running.call("time__get_current_time", b'{"timezone":"Nowhere/At_All"}'))[-1].is_error
        with pytest.raises(InvalidToolArguments):
            await running.call("time__get_current_time", b'{"timezone":7}')


@pytest.mark.system
async def test_fetch(gateway):
    with site() as url:
        async with gateway({"web": fetch()}) as running:
            assert running.status("web").state is ServerState.READY

            async def get(path: str, **more: object):
                return await running.call("web__fetch", json.dumps({"url": f"{url}{path}", **more}).encode())

            page = text(await get("/tides.html"))
            assert "# Tides" in page and "Ostend" in page and "<p>" not in page
            assert "<p>The water" in text(await get("/tides.html", raw=True))
            assert "truncated" in text(await get("/tides.html", max_length=10))
            kept_off = await get("/private/tides.html")
            assert kept_off[-1].is_error and b"robots.txt" in kept_off[-1].content
            assert (await get("/nothing.html"))[-1].is_error
