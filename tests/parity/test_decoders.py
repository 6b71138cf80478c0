"""Every family and weight format against the reference implementation."""

import numpy as np
import pytest

FOLDERS = [
    "llama", "llama3_rope_tied", "mistral_swa", "qwen2", "qwen3", "phi3", "phi3_longrope", "lfm2", "gemma2", "gemma3",
    "granite", "smollm3", "mixtral", "qwen3_moe", "gemma", "gemma3_vision", "qwen2_moe", "lfm2_moe", "olmo2",
    "starcoder2", "gpt_oss", "gpt_oss_mxfp4", "qwen3_next", "qwen3_5",
]  # fmt: skip
ARCHITECTURES = ["llama", "qwen2", "qwen3"]
FILES = [
    *(f"gguf_{name}/tiny-{name}-{kind}.gguf" for name in ARCHITECTURES for kind in ("F16", "Q8_0", "Q4_0")),
    *(f"gguf_{name}_k256/tiny-{name}-k256-{kind}.gguf" for name in ARCHITECTURES for kind in ("Q4_K_M", "Q6_K")),
    "gguf_llama_rope3/tiny-llama-Q8_0.gguf",
]
QUANTISED = [*(file for file in FILES if "F16" not in file), "gpt_oss_mxfp4"]

ONE = np.zeros(1, np.int64)
EXACT = 1e-3
INT8_ACTIVATIONS = 0.9
"""What the kernels' int8 activations may move logits by; llama.cpp's own move the same models by 0.1 to 0.75."""


@pytest.mark.parametrize("model", FOLDERS + FILES)
def test_float32_gives_the_reference_logits_and_tokens(model, load_golden, prompts_of):
    session = load_golden(model, "float32").session
    for prompt in prompts_of(model):
        length = len(prompt.ids)
        logits = session.prefill(0, prompt.ids, 0, np.arange(prompt.start, length), length)
        np.testing.assert_allclose(logits, prompt.logits, rtol=0, atol=EXACT, err_msg=prompt.name)
        row, chosen = logits[-1], []
        for step, token in enumerate(prompt.greedy):
            where = f"{prompt.name} {step}"
            np.testing.assert_allclose(row, prompt.decode_logits[step], rtol=0, atol=EXACT, err_msg=where)
            chosen.append(int(row.argmax()))
            row = session.decode(0, np.array([token]), np.array([length + step], np.int32), ONE)[0]
        assert chosen == prompt.greedy


@pytest.mark.parametrize("model", QUANTISED)
def test_block8_stays_as_close_as_int8_activations_allow(model, load_golden, prompts_of):
    loaded = load_golden(model, "auto")
    assert loaded.compute == "block8"
    for prompt in prompts_of(model):
        length = len(prompt.ids)
        logits = [*loaded.session.prefill(1, prompt.ids, 0, np.arange(prompt.start, length), length)]
        for step, token in enumerate(prompt.greedy[:-1]):
            logits += [loaded.session.decode(1, np.array([token]), np.array([length + step], np.int32), ONE)[0].copy()]
        wanted = np.concatenate((prompt.logits, prompt.decode_logits[1:]))
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=INT8_ACTIVATIONS, err_msg=prompt.name)
        best = np.sort(wanted, axis=1)
        clear = best[:, -1] - best[:, -2] > 1
        assert (np.argmax(logits, axis=1) == wanted.argmax(axis=1))[clear].all()


@pytest.mark.parametrize("model", FOLDERS)
def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(model, load_golden, prompts_of, in_chunks):
    session = load_golden(model, "float32").session
    ids = prompts_of(model)[1].ids
    whole = session.prefill(0, ids, 0, np.arange(len(ids)), len(ids)).copy()
    np.testing.assert_allclose(in_chunks(session, 2, ids), whole, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", FOLDERS)
def test_rows_of_a_ragged_batch_give_what_they_give_alone(model, load_golden, prompts_of):
    session = load_golden(model, "float32").session
    ids = prompts_of(model)[1].ids
    lengths = np.array([50, 0, 21], np.int32)
    for slot, length in enumerate(lengths, start=1):
        session.prefill(slot, ids[:length], 0, np.arange(0), int(length))
    states = [session.save(slot) for slot in range(1, 4)]
    together = session.decode(1, ids[lengths], lengths, np.arange(3)).copy()
    for slot, length in enumerate(lengths, start=1):
        session.restore(slot, states[slot - 1])
        alone = session.decode(slot, ids[[length]], np.array([length], np.int32), ONE)
        np.testing.assert_allclose(together[[slot - 1]], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("model", FOLDERS)
def test_rows_that_are_not_live_stay_as_they_are(model, load_golden, prompts_of):
    session = load_golden(model, "float32").session
    ids = prompts_of(model)[1].ids
    for slot in range(4):
        session.prefill(slot, ids[:30], 0, np.arange(0), 31)
    lengths = np.full(4, 30, np.int32)
    chosen = session.decode(0, ids[[30] * 4], lengths, np.array([0, 3])).copy()
    assert chosen.shape == (2, session.vocab_size)
    others = session.decode(1, ids[[30] * 2], lengths[:2], np.arange(2))
    np.testing.assert_allclose(others, chosen, rtol=0, atol=1e-4)


def test_a_copied_prefix_continues_as_its_source(load_golden, prompts_of):
    session = load_golden("llama", "float32").session
    prompt = prompts_of("llama")[1]
    session.prefill(0, prompt.ids, 0, np.arange(0), len(prompt.ids))
    session.copy(0, 3, 60)
    logits = session.prefill(3, prompt.ids[60:], 60, np.array([len(prompt.ids) - 61]), len(prompt.ids))
    np.testing.assert_allclose(logits[0], prompt.logits[-1], rtol=0, atol=EXACT)


def test_the_older_config_spelling_means_the_same(golden_dir, tmp_path, load_golden, prompts_of):
    from narthex_server.loading import LoadOptions, load

    for name in FOLDERS:
        folder = tmp_path / name
        folder.mkdir()
        for file in (golden_dir / name).iterdir():
            if file.name not in ("config.json", "config.v4.json"):
                (folder / file.name).symlink_to(file)
        (folder / "config.json").symlink_to(golden_dir / name / "config.v4.json")
        session = load(folder, LoadOptions("float32", threads=2, slots=1, max_context=256)).session
        prompt = prompts_of(name)[0]
        logits = session.prefill(0, prompt.ids, 0, np.arange(len(prompt.ids)), len(prompt.ids))
        np.testing.assert_allclose(logits, prompt.logits, rtol=0, atol=EXACT, err_msg=name)
        session.close()
