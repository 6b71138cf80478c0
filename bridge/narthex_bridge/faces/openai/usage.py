"""What an answer cost and why it ended."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from narthex.v1 import common_pb2 as common

# A limit of rounds is a limit; OpenAI has no word for work that somebody else ended, and vLLM says abort.
FINISH_REASONS: Mapping[int, str] = MappingProxyType(
    {
        common.FINISH_REASON_STOP: "stop", common.FINISH_REASON_LENGTH: "length",
        common.FINISH_REASON_TOOL_CALLS: "tool_calls", common.FINISH_REASON_TOOL_ROUNDS: "length",
        common.FINISH_REASON_BUDGET: "length", common.FINISH_REASON_REPETITION: "length",
        common.FINISH_REASON_CANCELLED: "abort",
    }
)  # fmt: skip


def finish_reason(finished: common.Finished) -> str:
    return FINISH_REASONS.get(finished.finish_reason, "stop")


def usage(spent: common.Usage) -> dict[str, Any]:
    """Speculation is not shown: OpenAI's prediction tokens count a text that the caller predicted."""
    return {
        "prompt_tokens": spent.prompt_tokens,
        "completion_tokens": spent.completion_tokens,
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": spent.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": spent.reasoning_tokens},
    }


def add_usage(total: common.Usage, spent: common.Usage) -> None:
    """Adds what another prompt cost."""
    for field, value in spent.ListFields():
        setattr(total, field.name, getattr(total, field.name) + value)
