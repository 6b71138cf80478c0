"""Settings and their documentation."""

import re
from pathlib import Path

import pytest
from narthex.settings import settings
from narthex_bridge.config import BridgeConfig
from narthex_server.config.server import ServerConfig

DOCS = Path(__file__).parents[3] / "docs"
TEXT = "\n".join(page.read_text("utf-8") for page in sorted(DOCS.glob("*.md")) if page.name != "log.md")


@pytest.mark.parametrize("tree", [BridgeConfig, ServerConfig])
def test_every_setting_is_somewhere_in_the_documentation(tree):
    def told(setting):
        *above, name = (key.replace("_", "-") for key in setting.keys)
        words = (
            setting.flag,
            "--" + "-".join((*above, name)),
            "--" + "-".join(("no", *above, name)),
            ".".join(setting.keys),
        )
        return any(re.search(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", TEXT) for word in words)

    assert [setting.flag for setting in settings(tree) if not told(setting)] == []
