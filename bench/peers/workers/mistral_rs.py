"""mistral.rs through its Python package, which takes several requests at once only as streams.

It fails on prompts of one length that it puts in one batch ("input tensor is not contiguous"), so each prompt is one
token shorter than the one before. What the streams carry is text, and tokens without text do not show: when each token
came is interpolated between the first and the last, which the usage tells to a millisecond.
"""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mistralrs import ChatCompletionRequest, Runner, Which

from bench.peers.workers.worker import Prompts, arguments, serve

TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


class MistralRs:
    def __init__(self, path: Path, slots: int) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as template:
            template.write(TEMPLATE)
            template.flush()
            which = Which.GGUF(quantized_model_id=str(path.parent), quantized_filename=path.name)
            self._runner = Runner(which=which, max_seqs=slots, prefix_cache_n=0, chat_template=template.name)

    def generate(self, prompts: Prompts, tokens: int) -> list[list[float]]:
        streams = [
            self._runner.send_chat_completion_request(
                ChatCompletionRequest(
                    [{"role": "user", "content": text(prompt[at:])}], "default",
                    max_tokens=tokens, stream=True, temperature=0.0, top_k=1,
                )
            )
            for at, prompt in enumerate(prompts)
        ]  # fmt: skip
        times = []
        for stream in streams:
            usage = [chunk.usage for chunk in stream][-1]
            end, decoded = time.perf_counter(), usage.total_completion_time_sec
            count = usage.completion_tokens
            times.append([end - decoded * (count - 1 - at) / max(count - 1, 1) for at in range(count)])
        return times


def text(prompt: Sequence[int]) -> str:
    """What the tokens of bench/make_gguf.py for printable characters stand for."""
    return "".join(chr(ord("!") + token - 3) for token in prompt)


def main() -> None:
    args = arguments(__doc__).parse_args()
    serve(lambda: MistralRs(args.model, args.slots))


if __name__ == "__main__":
    main()
