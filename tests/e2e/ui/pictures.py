"""The pictures of docs/ui.md, taken anew: python -m tests.e2e.ui.pictures."""

import asyncio
import math
import sys
import tempfile
from pathlib import Path

from tests.e2e.processes import started
from tests.e2e.ui.browser import Page, page
from tests.e2e.ui.examples import busy
from tests.unit.bridge.ui.lot_server import LotServer, serving

IMAGES = Path(__file__).parents[3] / "docs" / "images"
SECONDS = 100


async def main(images: Path) -> None:
    images.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with (
            serving() as lot,
            started("narthex_bridge.main", "--http", "127.0.0.1:0", "--server", lot.address) as bridge,
            page(Path(folder)) as browser,
        ):
            busy(lot)
            await _taken(browser, lot, f"http://{bridge['http']}/ui", images)


def _go_on(lot: LotServer, second: int) -> None:
    """What a load that comes and goes looks like; it ends as it began."""
    left = SECONDS - 1 - second
    swing = 1 - math.cos(left / 5)
    engine = lot.occupancy.models[0]
    engine.running = max(1, 7 - round(2.5 * swing))
    waiting = max(0, 5 - round(4 * swing))
    engine.waiting = waiting
    engine.kv_usage = 0.93 - 0.22 * swing - 0.004 * left
    lot.occupancy.open_tickets = 3 + left // 9
    lot.pools[0].waiting[1].count = max(1, waiting - 2)
    lot.locks[0].wait_p99.nanos = 8_400 - round(1_500 * swing)


async def _taken(browser: Page, lot: LotServer, url: str, images: Path) -> None:
    await browser.resize(1280, 1150)
    await browser.open(url)
    await browser.shows("#locks-table", "kv_cache")
    await browser.run("document.getElementById('chat-text').focus()")
    await browser.type("What happens when everybody comes at once?")
    await browser.press("Enter")
    await browser.shows(".turn:last-child", "tokens in")
    await browser.run("document.activeElement.blur()")
    for second in range(SECONDS):
        _go_on(lot, second)
        await browser.until(
            f"document.querySelector('.spark .line').getAttribute('points')?.split(' ').length > {second}"
        )
    for scheme in ("light", "dark"):
        await browser.prefer(prefers_color_scheme=scheme)
        await browser.picture(images / f"ui-{scheme}.png")
    await browser.prefer(prefers_color_scheme="light")
    await browser.resize(320, 1150)
    await browser.picture(images / "ui-narrow.png")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES))
