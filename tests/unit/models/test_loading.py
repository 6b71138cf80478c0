import json
import shutil
from pathlib import Path

import pytest
from narthex_server.errors import InvalidModelFile, InvalidRequest
from narthex_server.loading import LoadOptions, load
from narthex_server.progress import Stage

GOLDEN = Path(__file__).parents[2] / "golden"
GGUF = GOLDEN / "gguf_llama" / "tiny-llama-Q8_0.gguf"


def test_a_loaded_model_describes_itself(tmp_path):
    model = load(GGUF, LoadOptions(slots=2, max_context=128, cache_dir=tmp_path))
    assert (model.model_type, model.compute, model.quantization) == ("llama", "block8", "Q8_0")
    assert (model.max_context, model.session.max_len, model.session.slots) == (128, 128, 2)
    assert model.vocab_size == model.session.vocab_size == 512
    assert model.parameters > 100_000
    assert model.text.tokenizer.encode("hello")
    model.session.close()


def test_the_context_is_never_more_than_the_models(tmp_path):
    assert load(GGUF, LoadOptions(max_context=1 << 20, cache_dir=tmp_path)).max_context == 512


@pytest.mark.parametrize("longest", [-1, "x", [7], float("nan")])
def test_a_context_that_is_no_number_of_tokens_is_refused(tmp_path, longest):
    for file in (GOLDEN / "llama").iterdir():
        if file.name != "config.json":
            (tmp_path / file.name).symlink_to(file)
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": longest}))
    with pytest.raises(InvalidModelFile, match=r"max_position_embeddings is .*, not a number of tokens"):
        load(tmp_path, LoadOptions(cache_dir=None))


def test_the_context_of_a_model_with_a_tower_is_that_of_its_language_model(tmp_path):
    folder = GOLDEN / "gemma3_vision"
    longest = json.loads((folder / "config.json").read_text())["text_config"]["max_position_embeddings"]
    model = load(folder, LoadOptions(slots=1, max_context=1 << 20, cache_dir=tmp_path))
    assert model.max_context == longest
    model.session.close()


def test_a_folder_with_one_gguf_file_is_that_file(tmp_path):
    (tmp_path / "m.gguf").symlink_to(GGUF)
    assert load(tmp_path, LoadOptions(slots=1, cache_dir=None)).quantization == "Q8_0"
    (tmp_path / "n.gguf").symlink_to(GGUF)
    with pytest.raises(InvalidModelFile, match="holds 2 GGUF files: name one"):
        load(tmp_path, LoadOptions(slots=1, cache_dir=None))


def test_a_cache_that_cannot_be_written_does_not_stop_loading(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    model = load(GGUF, LoadOptions(slots=1, cache_dir=tmp_path / "file" / "cache"))
    assert model.session.vocab_size == 512
    assert "graphs are not cached" in caplog.text


def test_weights_of_another_quantiser_are_refused_by_name(tmp_path):
    config = {"model_type": "llama", "quantization_config": {"quant_method": "hqq", "bits": 4}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(
        InvalidModelFile, match="quantised by hqq are not supported; supported are narthex, gptq, awq, fp8"
    ):
        load(tmp_path, LoadOptions(cache_dir=None))


def test_a_truncated_model_is_refused(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(GGUF.read_bytes()[:-1000])
    with pytest.raises(InvalidModelFile, match="truncated: tensor"):
        load(path, LoadOptions(cache_dir=tmp_path))


def test_an_unknown_compute_mode_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="'int3' is none of auto, float32, block8"):
        load(GGUF, LoadOptions(compute="int3", cache_dir=tmp_path))


def test_an_unknown_quantisation_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InvalidRequest, match="quantize: 'q9_k' is none of q8_0, q6_k"):
        load(GOLDEN / "llama", LoadOptions(cache_dir=tmp_path, quantize="q9_k"))


def test_stages_are_told_in_order_and_a_graph_in_the_cache_is_not_built(tmp_path):
    def stages() -> list[Stage]:
        told = []
        progress = lambda stage, fraction: told.append((stage, fraction))  # noqa: E731
        load(GGUF, LoadOptions(slots=1, max_context=64, cache_dir=tmp_path, progress=progress)).session.close()
        fractions = {stage: [fraction for found, fraction in told if found is stage] for stage in Stage}
        assert all(found == sorted(found) for found in fractions.values())
        return list(dict.fromkeys(stage for stage, _ in told))

    assert stages() == [Stage.READ, Stage.BUILD, Stage.START]
    assert stages() == [Stage.READ, Stage.START]


def test_a_load_can_be_given_up_at_every_step(tmp_path):
    class Enough(Exception):
        pass

    for stage in Stage:

        def progress(now: Stage, fraction: float, last: Stage = stage) -> None:
            if now is last:
                raise Enough

        with pytest.raises(Enough):
            load(GGUF, LoadOptions(slots=1, max_context=64, cache_dir=tmp_path, progress=progress))
        drafts = [entry for entry in tmp_path.glob("graphs/*") if entry.name.startswith(".draft")]
        assert not drafts


def test_nothing_is_built_for_a_broken_tokenizer(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "llama", folder)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(InvalidModelFile, match=r"tokenizer\.json"):
        load(folder, LoadOptions(cache_dir=tmp_path / "cache"))
    assert not [*(tmp_path / "cache").glob("graphs/*")]
