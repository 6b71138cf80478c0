"""Log probabilities of completions and prompts, through the engine, against the reference's logits."""

import numpy as np
import pytest
from narthex_server.engine.handle import EngineHandle
from narthex_server.engine.options import EngineOptions
from narthex_server.engine.request import EngineRequest, PromptScores, Sampling, Tokens
from narthex_server.loading import LoadOptions, load

MODELS = ["llama", "gemma2", "lfm2", "qwen3", "mixtral"]
EXACT = 1e-4


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def check(position, token, row):
    assert position.chosen.token == token
    assert position.chosen.logprob == pytest.approx(row[token], abs=EXACT)
    best = np.sort(row)[::-1][: len(position.candidates)]
    assert [one.logprob for one in position.candidates] == pytest.approx(best.tolist(), abs=EXACT)
    assert [one.rank for one in position.candidates] == [*range(1, len(best) + 1)]


@pytest.mark.parametrize("prefill_tokens", [19, 256])
@pytest.mark.parametrize("model", MODELS)
async def test_prompt_and_completion_have_the_references_log_probabilities(
    model, prefill_tokens, golden_dir, prompts_of, tmp_path_factory
):
    cache = tmp_path_factory.getbasetemp() / "graphs"
    loaded = load(golden_dir / model, LoadOptions("float32", threads=2, slots=2, max_context=256, cache_dir=cache))
    handle = EngineHandle(loaded.session, EngineOptions(prefill_tokens=prefill_tokens))
    handle.start()
    try:
        for prompt in prompts_of(model):
            ids = tuple(prompt.ids.tolist())
            request = EngineRequest(prompt.name, ids, 24, sampling=Sampling(0), logprobs=20, prompt_logprobs=5)
            scores, said, logprobs = [], [], []
            async for event in handle.generate(request):
                match event:
                    case PromptScores():
                        scores += event.logprobs
                    case Tokens():
                        said += event.ids
                        logprobs += event.logprobs
            assert said == prompt.greedy and len(scores) == len(ids) - 1
            for position, token, row in zip(logprobs, said, log_softmax(prompt.decode_logits), strict=True):
                check(position, token, row)
            known = log_softmax(prompt.logits)
            for at in range(prompt.start, len(ids) - 1):
                check(scores[at], ids[at + 1], known[at - prompt.start])
    finally:
        await handle.stop(0)
