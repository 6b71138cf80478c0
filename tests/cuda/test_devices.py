"""What `--device` means on machines with and without what a GPU needs."""

import json

import pytest

pytestmark = pytest.mark.system  # the stub driver needs a C compiler

USED = [
    (("llama", "auto", "auto", 2, {}), ["cuda:0", "bfloat16"]),
    (("llama", "auto", "auto", 2, {"STUB_CAPABILITY": "75"}), ["cuda:0", "float16"]),
    (("llama", "cuda:1", "float16", 2, {"STUB_GPUS": "2"}), ["cuda:1", "float16"]),
    (("llama", "cpu", "auto", 2, {}), ["cpu", "float32"]),
    (("llama", "auto", "auto", 2, {"STUB_GPUS": "0"}), ["cpu", "float32"]),
    (("llama", "auto", "auto", 2, {"STUB_BYTES": "1000"}), ["cpu", "float32"]),
    (("llama", "auto", "float32", 2, {}), ["cpu", "float32"]),
    (("lfm2", "auto", "auto", 2, {}), ["cpu", "float32"]),
]
REFUSED = [
    (("llama", "cuda", "auto", 2, {"STUB_GPUS": "0"}), "the NVIDIA driver finds no GPU that it can use"),
    (("llama", "cuda:1", "auto", 2, {}), "there is no GPU 1; the NVIDIA driver has 1"),
    (("llama", "cuda", "float32", 2, {}), "compute float32 is for the CPU; choose auto, float16 or bfloat16"),
    (("llama", "cuda", "bfloat16", 2, {"STUB_CAPABILITY": "75"}), "capability 7.5, and bfloat16 needs 8.0"),
    (("llama", "auto", "float16", 2, {"STUB_GPUS": "0"}), "compute float16 needs a GPU"),
    (("lfm2", "cuda", "auto", 2, {}), "it keeps states beside keys and values"),
]
TOO_SMALL = [
    (("llama", "cuda", "auto", 2, {"STUB_BYTES": "1000"}), "the weights do not fit"),
    (
        ("llama", "cuda", "auto", 64, {"STUB_BYTES": "1000000"}),
        "bytes of keys and values do not fit; lower --max-slots",
    ),
]


def test_a_gpu_is_used_where_it_can_be(on_stub):
    found = on_stub("loads.py", json.dumps([case for case, _ in USED]))
    assert found == [wanted for _, wanted in USED]


def test_what_is_asked_for_and_cannot_be_is_refused(on_stub):
    found = on_stub("loads.py", json.dumps([case for case, _ in REFUSED]))
    for (reason, message), (_, part) in zip(found, REFUSED, strict=True):
        assert reason == "NOT_ON_DEVICE" and part in message


def test_a_gpu_whose_memory_is_too_small_says_what_does_not_fit(on_stub):
    found = on_stub("loads.py", json.dumps([case for case, _ in TOO_SMALL]))
    for (reason, message), (_, part) in zip(found, TOO_SMALL, strict=True):
        assert reason == "RESOURCE_EXHAUSTED" and part in message


def test_a_library_that_is_missing_is_named(stubs, tmp_path, on_stub):
    for library in stubs.glob("*.so.*"):
        (tmp_path / library.name).symlink_to(library)
    (tmp_path / "libcublas.so.13").unlink()
    (tmp_path / "libcublas.so.13").write_bytes(b"")
    case = ("llama", "cuda", "auto", 2, {})
    ((reason, message),) = on_stub("loads.py", json.dumps([case]), LD_LIBRARY_PATH=str(tmp_path))
    assert reason == "NOT_ON_DEVICE"
    assert "libcublas.so.13" in message and "pip install 'narthex[cuda]'" in message
