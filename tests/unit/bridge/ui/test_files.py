"""The files of the page, which everybody may have."""

import re
from pathlib import Path

import narthex_bridge.ui
import pytest
from narthex.keys import new_key

STATIC = Path(narthex_bridge.ui.__file__).parent / "static"
FILES = sorted(file.name for file in STATIC.iterdir())


@pytest.fixture
def keyed(start_bridge, tmp_path):
    path = tmp_path / "keys.toml"
    path.write_text(new_key("ann", "t1")[1].toml)
    return start_bridge(api_key_file=path)


async def test_the_page_is_html_with_a_strict_policy(bridge):
    page = await bridge.http.get("/ui")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert page.headers["x-content-type-options"] == "nosniff" and page.headers["x-frame-options"] == "DENY"
    assert page.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("name", [name for name in FILES if name != "index.html"])
async def test_every_file_is_served_as_what_it_is(bridge, name):
    answer = await bridge.http.get(f"/ui/{name}")
    kinds = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    assert answer.content == (STATIC / name).read_bytes()
    assert answer.headers["content-type"].startswith(kinds[name.rpartition(".")[2]])
    assert "content-security-policy" in answer.headers and answer.headers["x-content-type-options"] == "nosniff"


async def test_a_file_that_the_browser_has_is_not_sent_again(bridge):
    first = await bridge.http.get("/ui/style.css")
    assert first.headers["cache-control"] == "no-cache"
    for known in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}', "*"):
        again = await bridge.http.get("/ui/style.css", headers={"if-none-match": known})
        assert again.status_code == 304 and again.headers["etag"] == first.headers["etag"]
        assert not again.content and "content-length" not in again.headers
    changed = await bridge.http.get("/ui/style.css", headers={"if-none-match": '"other"'})
    assert changed.status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/ui/nothing.js", "/ui/../app.py", "/ui/%2e%2e/routes.py", "/ui/static/main.js", "/ui/index.html", "/ui//ui"],
)
async def test_nothing_else_is_served(bridge, path):
    answer = await bridge.http.get(path)
    assert answer.status_code == 404


async def test_a_slash_too_many_leads_to_the_page(bridge):
    answer = await bridge.http.get("/ui/")
    assert answer.status_code == 308 and answer.headers["location"] == "../ui"


async def test_files_need_no_key_and_what_they_show_does(keyed):
    async with keyed as bridge:
        assert (await bridge.http.get("/ui")).status_code == 200
        assert (await bridge.http.get("/ui/main.js")).status_code == 200
        refused = await bridge.http.get("/ui/status")
        assert refused.status_code == 401 and "API key" in refused.json()["error"]["message"]


async def test_it_can_be_switched_off(start_bridge):
    async with start_bridge(ui=False) as bridge:
        for path in ("/ui", "/ui/main.js", "/ui/status"):
            assert (await bridge.http.get(path)).status_code == 404
        assert "/ui" not in (await bridge.http.get("/")).text


async def test_the_welcome_names_it(bridge):
    assert "/ui " in (await bridge.http.get("/")).text


@pytest.mark.parametrize("name", FILES)
def test_files_load_nothing_from_elsewhere_and_make_no_markup(name):
    text = (STATIC / name).read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bstyle=|\bon[a-z]+=", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style", text)
