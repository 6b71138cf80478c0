"""What becomes of the members of a request that nothing here reads.

A member that would change the answer, and cannot, is refused by name unless it asks for what happens anyway. One that
is known to change nothing is ignored; so is one that nobody knows, and the answer names it in a header.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from narthex_bridge.faces.body import Fields
from narthex_bridge.http.refusal import Headers

IGNORED_HEADER = "x-narthex-ignored"
_MOST_NAMED = 16
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")

IGNORED = frozenset(
    {
        # OpenAI: whose the request is, what is kept of it, how it is billed and cached; hints that change no word
        "user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "prompt_cache_options",
        "service_tier", "prediction", "store", "include",
        # vLLM and llama.cpp: scheduling, caching and tracing
        "priority", "request_id", "cache_salt", "session_id", "cache_prompt", "id_slot", "timings_per_token",
        "return_progress", "spaces_between_special_tokens", "add_special_tokens",
        "guided_decoding_backend", "guided_whitespace_pattern", "n_keep", "include_reasoning",
    }
)  # fmt: skip

# The values with which each of them changes nothing; an empty array changes nothing in any.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = MappingProxyType(
    {
        # OpenAI
        "audio": (), "modalities": (["text"],), "functions": (), "function_call": ("none", "auto"),
        "verbosity": ("medium",), "web_search_options": (), "moderation": (), "suffix": ("",),
        "background": (False,), "conversation": (), "previous_response_id": (), "prompt": (),
        "truncation": ("disabled",), "context_management": (), "logprobs": (False,),
        # mistral.rs
        "truncate_sequence": (False,), "code_interpreter": (False,), "enable_code_execution": (False,),
        "enable_shell": (False,), "files": (),
        # vLLM
        "use_beam_search": (False,), "length_penalty": (1,), "truncate_prompt_tokens": (), "prompt_logprobs": (),
        "logprob_token_ids": (), "bad_words": (), "add_generation_prompt": (True,), "documents": (),
        "continue_final_message": (False,), "chat_template": (), "logits_processors": (), "watermarking": (False,),
        "repetition_detection": (), "return_tokens_as_token_ids": (False,), "return_prompt_text": (False,),
        "echo": (False,), "best_of": (1,), "prompt_embeds": (),
        # llama.cpp
        "typical_p": (1,), "tfs_z": (1,), "mirostat": (0,), "mirostat_tau": (), "mirostat_eta": (),
        "xtc_probability": (0,), "xtc_threshold": (), "dynatemp_range": (0,), "dynatemp_exponent": (),
        "top_n_sigma": (-1,), "repeat_last_n": (-1,), "samplers": (), "n_probs": (0,), "min_keep": (0, 1),
        "n_predict": (-1,), "adaptive_target": (-1,), "lora": (), "json_schema": (),
        "reasoning_format": ("auto", "deepseek"), "parse_tool_calls": (True,), "post_sampling_probs": (False,),
        "input_extra": (),
    }
)  # fmt: skip
_INSTEAD: Mapping[str, str] = MappingProxyType(
    {
        "functions": "use tools", "function_call": "use tool_choice", "n_predict": "use max_tokens",
        "lora": "use adapters", "conversation": "send the whole conversation in input",
        "previous_response_id": "send the whole conversation in input", "web_search_options": "use a forwarded tool",
        "json_schema": "use response_format",
    }
)  # fmt: skip


def settle(fields: Fields) -> Headers:
    """Refuses what would change the answer; returns a header that names what nobody knows."""
    unknown = []
    for name in fields.unread():
        if name in _NEUTRAL:
            value = fields.any(name)
            if value != [] and value not in _NEUTRAL[name]:
                instead = f": {_INSTEAD[name]}" if name in _INSTEAD else ""
                raise fields.fault(name, f"is not supported here{instead}")
        elif name not in IGNORED and _NAME.fullmatch(name):
            unknown.append(name)
    return ((IGNORED_HEADER, ", ".join(unknown[:_MOST_NAMED])),) if unknown else ()
