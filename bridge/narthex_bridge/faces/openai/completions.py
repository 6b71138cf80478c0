"""POST /v1/completions: prompts, continued."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from narthex.v1 import common_pb2 as common
from narthex.v1 import generation_pb2 as wire

from narthex_bridge.config.bridge import BridgeConfig
from narthex_bridge.faces.adapters import adapters
from narthex_bridge.faces.body import LARGEST_WHOLE, Fields, fields
from narthex_bridge.faces.constraint import constraint
from narthex_bridge.faces.openai.chat import streaming
from narthex_bridge.faces.openai.logprobs import text_of
from narthex_bridge.faces.openai.positions import Positions
from narthex_bridge.faces.openai.stopping import stopping
from narthex_bridge.faces.openai.texts import CompletionChunks
from narthex_bridge.faces.openai.together import all_of, merged
from narthex_bridge.faces.openai.usage import add_usage, finish_reason, usage
from narthex_bridge.faces.options import call_options, numbered
from narthex_bridge.faces.policy import settle
from narthex_bridge.faces.sampling import sampling
from narthex_bridge.faces.stream import Stream
from narthex_bridge.faces.work import Work
from narthex_bridge.http.messages import HttpRequest, HttpResponse, event_stream
from narthex_bridge.http.refusal import Headers
from narthex_bridge.server.inference import Inference

MOST_PROMPTS = 128
_LONGEST_ID = 120
"""Of a request's id; with a prompt's number it stays within the contract's 128."""

Prompt = str | Sequence[int]
_Request = tuple[str, wire.GenerationSpec, common.CallOptions]


@dataclass(frozen=True, slots=True)
class CompletionOrder:
    """Prompts to be continued, one spec for each, and how that is to be told."""

    specs: Sequence[wire.GenerationSpec]
    scored_echo: bool
    stream: bool
    include_usage: bool
    headers: Headers

    def requests(self, request_id: str, options: common.CallOptions) -> Sequence[_Request]:
        """The work for each prompt under an id and a key of its own: the server takes an id once at a time."""
        if len(self.specs) == 1:
            return [(request_id, self.specs[0], options)]
        return [
            (f"{request_id[:_LONGEST_ID]}-{number}", spec, numbered(options, number))
            for number, spec in enumerate(self.specs)
        ]


class CompletionsEndpoint:
    """Answers with the continuations of all prompts, whole or in chunks."""

    def __init__(self, config: BridgeConfig, inference: Inference, work: Work) -> None:
        self._config = config
        self._inference = inference
        self._work = work

    async def post(self, http: HttpRequest) -> HttpResponse:
        body = fields(http.body)
        options, order = call_options(http, body), completion_order(body)
        if order.stream:
            return await self._stream(http, order, options)
        calls = [
            partial(
                self._inference.generate, http.caller, request_id,
                wire.GenerateRequest(spec=spec, options=options),
            )
            for request_id, spec, options in order.requests(http.request_id, options)
        ]  # fmt: skip
        replies = await self._work.run(all_of(calls))
        return HttpResponse(200, completions(http.request_id, replies, order), headers=order.headers)

    async def _stream(self, http: HttpRequest, order: CompletionOrder, options: common.CallOptions) -> HttpResponse:
        streams = [
            self._inference.generate_stream(
                http.caller, request_id, wire.GenerateStreamRequest(spec=spec, options=options)
            )
            for request_id, spec, options in order.requests(http.request_id, options)
        ]
        each = order.specs[0].n or 1
        chunks = CompletionChunks(f"cmpl-{http.request_id}", each, len(streams), order.scored_echo, order.include_usage)
        stream = Stream[tuple[int, wire.GenerateStreamResponse]](chunks, self._config.keepalive_s, http.request_id)
        await stream.open(self._work, merged(streams), self._config.stream_after_s)
        return event_stream(stream, stream.tally, order.headers)


def completion_order(body: Fields) -> CompletionOrder:
    """Raises Refusal where the request is not one that can be answered."""
    n, echo, most = body.whole("n"), bool(body.flag("echo")), body.whole("logprobs")
    best = body.whole("best_of")
    if best is not None and best != (n or 1):
        raise body.fault("best_of", "must be n: of more completions than are returned none can be chosen here")
    token_ids = bool(body.flag("return_token_ids"))
    prompts = _prompts(body)
    spec = wire.GenerationSpec(
        model=body.text("model") or "",
        sampling=sampling(body),
        stopping=stopping(body, "max_tokens", "max_completion_tokens"),
        response=wire.ResponseOptions(
            logprobs=most,
            prompt_logprobs=most if echo else None,
            token_ids=token_ids,
            prompt_token_ids=token_ids,
            skip_special_tokens=body.flag("skip_special_tokens"),
            echo=echo,
        ),
        constraint=constraint(body),
        adapters=adapters(body),
        n=n,
    )
    stream, include_usage = streaming(body)
    scored_echo = echo and most is not None
    specs = [_with_prompt(spec, prompt) for prompt in prompts]
    return CompletionOrder(specs, scored_echo, stream, include_usage, settle(body))


def completions(id: str, replies: Sequence[wire.GenerateResponse], order: CompletionOrder) -> bytes:
    """The body of a whole answer."""
    choices: list[dict[str, Any]] = []
    spent = common.Usage()
    for reply in replies:
        all_made: list[wire.GenerateResponse | wire.Completion] = [reply, *reply.further_completions]
        for made in all_made:
            choices.append(_choice(len(choices), made, reply.prompt, order))
        add_usage(spent, reply.finished.usage)
    return orjson.dumps(
        {
            "id": f"cmpl-{id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": replies[0].model,
            "choices": choices,
            "usage": usage(spent),
        }
    )


def _choice(
    index: int, made: wire.GenerateResponse | wire.Completion, prompt: wire.PromptInfo, order: CompletionOrder
) -> dict[str, Any]:
    positions, logprobs = Positions(), None
    if order.scored_echo:
        new = sum(len(text_of(position.chosen.token)) for position in made.logprobs)
        logprobs = positions.echo(prompt, made.text[: len(made.text) - new])
        for name, values in positions.tell(made.logprobs).items():
            logprobs[name] += values
    elif made.logprobs:
        logprobs = positions.tell(made.logprobs)
    choice: dict[str, Any] = {
        "index": index,
        "text": made.text,
        "logprobs": logprobs,
        "finish_reason": finish_reason(made.finished),
    }
    if made.token_ids:
        choice["token_ids"], choice["prompt_token_ids"] = list(made.token_ids), list(prompt.token_ids)
    return choice


def _with_prompt(spec: wire.GenerationSpec, prompt: Prompt) -> wire.GenerationSpec:
    made = wire.GenerationSpec()
    made.CopyFrom(spec)
    if isinstance(prompt, str):
        made.text = prompt
    else:
        made.token_ids.ids.extend(prompt)
    return made


def _prompts(body: Fields) -> Sequence[Prompt]:
    """Of a string, strings, one prompt's tokens or several prompts' tokens."""
    given = body.any("prompt")
    prompts: Sequence[Any] = given if isinstance(given, list) and not _are_tokens(given) else [given]
    if given is None:
        raise body.fault("prompt", "is missing")
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise body.fault("prompt", f"must hold 1 to {MOST_PROMPTS} prompts")
    if not all(isinstance(prompt, str) or _are_tokens(prompt) for prompt in prompts):
        raise body.fault("prompt", "must be a string, an array of strings, or tokens as integers")
    return prompts


def _are_tokens(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, int) and not isinstance(one, bool) and 0 <= one <= LARGEST_WHOLE for one in value)
    )
