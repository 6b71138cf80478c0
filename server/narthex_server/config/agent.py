"""Runs of the server's tools."""

from dataclasses import dataclass

from narthex.settings import option


@dataclass(frozen=True, slots=True)
class Agent:
    """What holds for runs where a request does not say otherwise, and what is kept of them; times in seconds."""

    parallel_calls: int = option(8, "tool calls of a round that run at the same time", minimum=1)
    approval_timeout: float = option(300.0, "seconds that a call waits for a person's answer", minimum=0.01)
    result_bytes: int = option(64 * 1024, "bytes of a tool's result that the model reads", minimum=256)
    kept_result_seconds: float = option(3600.0, "seconds that results too large for the model are kept", minimum=0)
    kept_result_bytes: int = option(64 * 1024 * 1024, "bytes of them, per caller", minimum=0)
    max_runs: int = option(16, "resumable runs, per caller", minimum=1)
    run_seconds: float = option(3600.0, "seconds that a resumable run may take", minimum=0.01)
    run_kept_seconds: float = option(300.0, "seconds that a resumable run can be joined after its end", minimum=0)
    run_kept_bytes: int = option(8 * 1024 * 1024, "bytes of a resumable run's events that are kept", minimum=1024)
