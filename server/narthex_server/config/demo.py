"""What is served where nothing is named: the embedded demo."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narthex.settings import SettingsError

DEMO_MODEL = "tiny-tool-demo-q8_0.gguf"
DEMO_TOOLS = ("get_current_time", "convert_time", "list_directory", "read_file", "search_files")
"""Those that the demo model has learnt to call; a few more confuse it."""


def demo_folder() -> Path:
    """Where the demo's files are: beside the package in a wheel, in `models/demo` of a source tree."""
    here = Path(__file__).resolve()
    for folder in (here.parents[2] / "narthex_demo", here.parents[3] / "models" / "demo"):
        if (folder / DEMO_MODEL).is_file():
            return folder
    raise SettingsError("the demo model is missing from this installation; name a model with --model NAME=PATH")


def demo_upstreams() -> Mapping[str, Any]:
    """The demo's two MCP servers, run by this very interpreter: `time`, and `workspace` over the demo's folder."""
    workspace = str(demo_folder() / "workspace")
    modules = {"time": ["mcp_server_time"], "workspace": ["narthex_mcp.workspace", workspace]}
    return {
        "servers": [
            {
                "name": name,
                "source": {"type": "Process", "command": sys.executable, "args": ["-P", "-m", *arguments]},
                "include": [*DEMO_TOOLS],
            }
            for name, arguments in modules.items()
        ]
    }
