"""Which dialect of tool calls a model speaks."""

from narthex_server.text.calls.hermes import HERMES
from narthex_server.text.calls.lfm2 import LFM2
from narthex_server.text.calls.llama3 import LLAMA3
from narthex_server.text.calls.mistral import GRANITE, MISTRAL, MISTRAL_NAMED
from narthex_server.text.calls.parser import Dialect

_SIGNS = (
    ("<tool_call>", HERMES),
    ("[ARGS]", MISTRAL_NAMED),
    ("[TOOL_CALLS]", MISTRAL),
    ("<|tool_call|>", GRANITE),
    ("<|tool_call_start|>", LFM2),
    ("<|tool_list_start|>", LFM2),
    ("<|python_tag|>", LLAMA3),
    ("<|start_header_id|>ipython", LLAMA3),
)


def detect(template: str) -> Dialect | None:
    """The dialect that a chat template's text shows, None if it knows nothing of tools."""
    if "tools" not in template:
        return None
    return next((dialect for sign, dialect in _SIGNS if sign in template), None)
