import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import FailedPrecondition, InvalidModelFile
from narthex_server.opening import open_model
from narthex_server.quantize import main, write_folder
from narthex_server.weights.scheme import Scheme
from safetensors.numpy import load_file, save_file

LLAMA = Path(__file__).parents[2] / "golden" / "llama"
GGUF = Path(__file__).parents[2] / "golden" / "gguf_llama" / "tiny-llama-Q8_0.gguf"


@pytest.fixture
def model(tmp_path):
    """A copy of a small model with what else model folders hold."""
    model = tmp_path / "model"
    shutil.copytree(LLAMA, model)
    (model / "golden.safetensors").unlink()
    for file in (
        "pytorch_model.bin",
        "onnx/model.onnx",
        "additional_chat_templates/tool_use.jinja",
        ".cache/x",
        "README.md",
    ):
        (model / file).parent.mkdir(exist_ok=True)
        (model / file).write_text("text")
    (model / "2_Dense").mkdir()
    save_file({"linear.weight": np.ones((2, 2), np.float32)}, model / "2_Dense" / "model.safetensors")
    return model


def write(model, out, kind="Q8_0", told=None, **options):
    write_folder(open_model(model), model, out, Scheme(kind), told or (lambda done, total: None), **options)


def files(folder):
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def test_everything_but_other_weights_and_hidden_files_comes_along(model, tmp_path):
    write(model, tmp_path / "out")
    assert files(tmp_path / "out") == [
        "2_Dense/model.safetensors", "README.md", "additional_chat_templates/tool_use.jinja", "config.json",
        "config.v4.json", "generation_config.json", "golden.json", "model.safetensors", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_the_config_says_how_each_tensor_is_kept(model, tmp_path):
    write(model, tmp_path / "out", "Q4_0")
    before = json.loads((model / "config.json").read_text())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    quantization = config.pop("quantization_config")
    assert config == before
    assert (quantization["quant_method"], quantization["version"]) == ("narthex", 1)
    assert quantization["formats"]["lm_head.weight"] == "Q8_0"
    assert quantization["formats"]["model.layers.2.mlp.down_proj.weight"] == "Q4_0"
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    assert tensors["model.layers.2.mlp.down_proj.weight"].shape == (64, 160 // 32 * 18)
    np.testing.assert_array_equal(
        tensors["model.norm.weight"], load_file(model / "model.safetensors")["model.norm.weight"]
    )


def test_progress_goes_up_to_the_whole(model, tmp_path):
    told = []
    write(model, tmp_path / "out", told=lambda done, total: told.append((done, total)))
    done, totals = zip(*told, strict=True)
    assert list(done) == sorted(done)
    assert set(totals) == {done[-1]}


def test_an_empty_folder_is_filled_and_any_other_left_alone(model, tmp_path):
    (tmp_path / "empty").mkdir()
    write(model, tmp_path / "empty")
    assert (tmp_path / "empty" / "config.json").is_file()
    before = files(tmp_path / "empty")
    for out in (tmp_path / "empty", model, model / "config.json"):
        with pytest.raises(FailedPrecondition, match="exists already; name a folder"):
            write(model, out)
    assert files(tmp_path / "empty") == before


def test_what_fails_half_way_leaves_nothing(model, tmp_path):
    tensors = load_file(model / "model.safetensors")
    name = "model.layers.2.mlp.up_proj.weight"
    tensors[name] = tensors[name].copy()
    tensors[name][0, 0] = np.nan
    save_file(tensors, model / "model.safetensors")
    with pytest.raises(InvalidModelFile, match=name):
        write(model, tmp_path / "out", shard_bytes=1000)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["{model}", "{tmp}/out", "--quantize", "q4_0", "--topology", "{tmp}/none.yml"], 2, "none.yml: cannot be read"),
        (["{model}", "{model}", "--quantize", "q4_0"], 2, "exists already"),
        (["{tmp}/nowhere", "{tmp}/out", "--quantize", "q4_0"], 3, "there is no model at"),
        ([str(GGUF), "{tmp}/out", "--quantize", "q4_0"], 3, "a GGUF file is quantised already"),
        (["{model}", "{model}/config.json/out", "--quantize", "q4_0"], 1, "File exists"),
    ],
)
def test_failures_have_their_exit_codes(model, tmp_path, capsys, words, code, told):
    assert main([word.format(model=model, tmp=tmp_path) for word in words]) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
