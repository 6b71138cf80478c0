"""Every ONNX decoder folder against the reference implementation, and every way of running it against each other."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.loading import LoadedModel, LoadOptions, load
from safetensors.numpy import load_file

GOLDEN = Path(__file__).parent.parent / "golden-onnx"
EXACT, FLOAT16, BLOCKS16, INT8 = (1e-3, 0.0), (0.2, 0.5), (0.35, 0.5), (1.5, 1.5)
"""How far logits may be off, and the margin from which the best token has to be the reference's."""

OPTIMUM = {
    "onnx_llama/onnx/model.onnx": EXACT,
    "onnx_llama/onnx/model_q4.onnx": EXACT,
    "onnx_llama/onnx/model_fp16.onnx": FLOAT16,
    "onnx_llama/onnx/model_q4f16.onnx": BLOCKS16,
    "onnx_qwen2/onnx/model.onnx": EXACT,
    "onnx_qwen3/onnx/model.onnx": EXACT,
    "onnx_qwen3/onnx/model_q4.onnx": EXACT,
    "onnx_lfm2/onnx/model.onnx": EXACT,
}
GENAI = {
    "genai_llama_fp32/model.onnx": EXACT,
    "genai_llama_int4/model.onnx": INT8,
    "genai_qwen2_fp32/model.onnx": EXACT,
    "genai_qwen3_fp32/model.onnx": EXACT,
    "genai_qwen3_int4/model.onnx": INT8,
    "genai_lfm2_fp32/model.onnx": EXACT,
}
MERGED = {"onnx_llama_merged/onnx/decoder_model_merged.onnx": EXACT}
FILES = OPTIMUM | GENAI | MERGED
FOLDERS = sorted({file.split("/")[0] for file in FILES})

NONE, ONE = np.zeros(0, np.int64), np.zeros(1, np.int64)
SAME = {EXACT: 1e-4, INT8: 1e-4, FLOAT16: 0.02, BLOCKS16: 0.02}
"""How far batching, chunks and copies may move logits."""


@pytest.fixture(scope="module")
def loaded():
    @cache
    def get(file: str) -> LoadedModel:
        return load(GOLDEN / file, LoadOptions(threads=2, slots=4, max_context=256))

    yield get


@pytest.fixture(scope="module")
def prompts():
    """The reference runs of a file: name, ids, first row, logits, greedy ids, their margins and logits."""

    @cache
    def get(file: str) -> list[tuple]:
        folder, _, name = file.partition("/")
        golden = json.loads((GOLDEN / folder / "golden.json").read_text())
        tensors = load_file(GOLDEN / folder / "golden.safetensors")
        entry = next(entry for entry in golden["files"] if entry["file"] == name)
        runs = golden["prompts"] if entry.get("prompts", "top") == "top" else entry["prompts"]
        return [
            (
                run["name"], np.array(run["input_ids"]), run.get("logits_start") or 0,
                tensors[run["tensors"]["logits"]], run["greedy_ids"], run["greedy_margins"],
                tensors[run["tensors"]["decode_logits"]],
            )
            for run in runs
        ]  # fmt: skip

    return get


@pytest.mark.parametrize("file", FILES)
def test_logits_and_tokens_are_the_references(file, loaded, prompts):
    session = loaded(file).session
    tolerance, margin = FILES[file]
    for name, ids, start, wanted, greedy, margins, steps in prompts(file):
        length = len(ids)
        logits = session.prefill(0, ids, 0, np.arange(start, length), length)
        np.testing.assert_allclose(logits, wanted, rtol=0, atol=tolerance, err_msg=name)
        row = logits[-1]
        for step, token in enumerate(greedy):
            np.testing.assert_allclose(row, steps[step], rtol=0, atol=tolerance, err_msg=f"{name} {step}")
            assert row.argmax() == token or margins[step] <= margin, f"{name} {step}"
            row = session.decode(0, np.array([token]), np.array([length + step], np.int32), ONE)[0]


@pytest.mark.parametrize("file", FILES)
def test_a_prompt_in_chunks_gives_the_logits_of_the_whole(file, loaded, prompts, in_chunks):
    session = loaded(file).session
    ids = prompts(file)[1][1]
    whole = session.prefill(0, ids, 0, np.arange(len(ids)), len(ids)).copy()
    np.testing.assert_allclose(in_chunks(session, 2, ids), whole, rtol=0, atol=SAME[FILES[file]])


@pytest.mark.parametrize("file", FILES)
def test_rows_of_a_ragged_batch_give_what_they_give_alone(file, loaded, prompts):
    session = loaded(file).session
    ids = prompts(file)[1][1]
    lengths = np.array([50, 0, 21], np.int32)
    for slot, length in enumerate((50, 9, 21), start=1):  # slot 2 is then cut back to nothing
        session.prefill(slot, ids[:length], 0, NONE, length)
    states = [session.save(slot) for slot in range(1, 4)]
    steps = [np.int32(step) for step in range(3)]
    together = [session.decode(1, ids[lengths + step], lengths + step, np.arange(3)).copy() for step in steps]
    whole = session.prefill(0, ids[:3], 0, np.arange(3), 3)
    np.testing.assert_allclose([rows[1] for rows in together], whole, rtol=0, atol=SAME[FILES[file]])
    for row, (slot, length) in enumerate(zip((1, 2, 3), lengths.tolist(), strict=True)):
        session.restore(slot, states[row])
        for step in steps:
            alone = session.decode(slot, ids[[length + step]], np.array([length + step], np.int32), ONE)
            np.testing.assert_allclose(together[step][[row]], alone, rtol=0, atol=SAME[FILES[file]])


@pytest.mark.parametrize("file", FILES)
def test_rows_that_are_not_live_stay_as_they_are(file, loaded, prompts):
    session = loaded(file).session
    ids = prompts(file)[1][1]
    for slot in range(4):
        session.prefill(slot, ids[:30], 0, NONE, 31)
    lengths = np.full(4, 30, np.int32)
    for _ in range(2):
        states = [session.save(slot) for slot in (0, 3)]
        chosen = session.decode(0, ids[[30] * 4], lengths, np.array([0, 3])).copy()
        for slot, state in zip((0, 3), states, strict=True):
            session.restore(slot, state)
    assert chosen.shape == (2, session.vocab_size)
    others = session.decode(1, ids[[30] * 2], lengths[:2], np.arange(2))
    np.testing.assert_allclose(others, chosen, rtol=0, atol=SAME[FILES[file]])


@pytest.mark.parametrize("file", FILES)
def test_a_copied_prefix_continues_as_its_source(file, loaded, prompts):
    session = loaded(file).session
    ids = prompts(file)[1][1]
    session.prefill(0, ids[:60], 0, NONE, len(ids))
    session.copy(0, 3, 60)
    wanted = session.prefill(0, ids[60:], 60, np.array([len(ids) - 61]), len(ids)).copy()
    session.prefill(0, ids[::-1], 0, NONE, len(ids))
    copied = session.prefill(3, ids[60:], 60, np.array([len(ids) - 61]), len(ids))
    np.testing.assert_allclose(copied, wanted, rtol=0, atol=SAME[FILES[file]])
    if not session.state_bytes:
        session.copy(3, 1, 40)
        cut = session.prefill(1, ids[40:], 40, np.array([len(ids) - 41]), len(ids))
        np.testing.assert_allclose(cut, wanted, rtol=0, atol=SAME[FILES[file]])


@pytest.mark.parametrize("file", FILES)
def test_it_says_how_it_computes(file, loaded):
    model = loaded(file)
    assert model.compute == ("onnx, one at a time" if file in MERGED else "onnx, batched")
    kind = {"lfm2": "lfm2", "qwen2": "qwen2", "qwen3": "qwen3", "llama": "llama"}[file.split("/")[0].split("_")[1]]
    assert model.model_type == kind and (model.session.state_bytes > 0) == (kind == "lfm2")
    blocks, half = "q4" in file or "int4" in file, "fp16" in file
    assert model.quantization == ("INT4" if blocks else "F16" if half else "F32") and model.parameters > 100_000


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_brings_its_text_and_the_ids_that_end_a_turn(folder):
    golden = json.loads((GOLDEN / folder / "golden.json").read_text())
    model = load(GOLDEN / folder, LoadOptions(threads=1, slots=1, max_context=64))
    for prompt in golden["prompts"]:
        assert model.text.tokenizer.encode(prompt["text"], prompt["add_special_tokens"]) == prompt["input_ids"]
    facts = GOLDEN / folder / "genai_config.json"
    declared = json.loads((facts if facts.is_file() else facts.with_name("config.json")).read_text())
    ids = declared.get("model", declared)["eos_token_id"]
    assert {*(ids if isinstance(ids, list) else [ids])} <= model.text.eos_ids
    assert model.max_context == 64
    model.session.close()


def test_safetensors_win_over_graphs_and_the_log_says_so(tmp_path, caplog):
    caplog.set_level("INFO")
    for source in (GOLDEN / "onnx_llama", GOLDEN.with_name("golden") / "llama"):
        for file in source.iterdir():
            target = tmp_path / file.name
            target.unlink(missing_ok=True)
            target.symlink_to(file)
    model = load(tmp_path, LoadOptions(threads=1, slots=1, max_context=64, cache_dir=None))
    assert model.compute == "float32" and "has safetensors and ONNX graphs" in caplog.text


def test_a_folder_of_links_as_the_hub_keeps_it_is_served(tmp_path):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "1"
    blobs.mkdir()
    (snapshot / "onnx").mkdir(parents=True)
    for number, file in enumerate(path for path in (GOLDEN / "onnx_qwen2").rglob("*") if path.is_file()):
        blob = blobs / str(number)
        blob.write_bytes(file.read_bytes())
        (snapshot / file.relative_to(GOLDEN / "onnx_qwen2")).symlink_to(blob)
    assert load(snapshot, LoadOptions(threads=1, slots=2, max_context=64)).compute == "onnx, batched"


def test_what_a_foreign_graph_cannot_do_is_said(tmp_path, caplog):
    graph = GOLDEN / "onnx_llama" / "onnx" / "model_q4.onnx"
    load(graph, LoadOptions("float32", threads=1, slots=1, max_context=64)).session.close()
    assert "computes as it was exported, not in float32" in caplog.text
    with pytest.raises(InvalidModelFile, match="an X-LoRA needs the model's safetensors or GGUF"):
        load(graph, LoadOptions(xlora=tmp_path))
