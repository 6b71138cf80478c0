"""What people read who do not come with a client."""

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


async def test_a_browser_reads_what_the_urls_are_for(bridge):
    page = await bridge.http.get("/", headers=BROWSER)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/plain")
    told = {line.split("  ")[0] for line in page.text.splitlines() if line.startswith("/")}
    assert {"/mcp", "/sse", "/mcp/stream", "/mcp/list", "/readyz", "/metrics"} <= told
    assert {"/v1/chat/completions", "/v1/messages"} <= told


async def test_it_names_no_url_that_is_switched_off(start_bridge):
    async with start_bridge(legacy_sse=False, direct=False, openai=False) as bridge:
        page = (await bridge.http.get("/")).text
    assert "/mcp " in page and "/sse" not in page and "/mcp/stream" not in page
    assert "/v1/chat" not in page and "/v1/messages" in page


async def test_a_browser_at_the_mcp_endpoint_is_told_that_it_is_none_for_it(bridge):
    answer = await bridge.http.get("/mcp", headers=BROWSER)
    assert answer.status_code == 406
    assert "browsers" in answer.json()["error"]["message"]
