"""What the session asks of the driver: bindings, captured graphs, copies of blocks."""

import pytest

pytestmark = pytest.mark.system  # the stub driver needs a C compiler


@pytest.mark.parametrize(
    ("model", "compute", "vocab", "sent"),
    [("llama", "float16", 512, 3), ("gemma2", "bfloat16", 560, 4), ("gguf_qwen2/tiny-qwen2-Q4_0.gguf", "auto", 516, 3)],
)
def test_steps_are_captured_once_per_bucket_and_launched_after(model, compute, vocab, sent, on_stub):
    ran = on_stub("steps.py", model, compute)
    assert ran["device"] == "cuda:0" and ran["compute"] == ("bfloat16" if compute == "auto" else compute)
    assert ran["shapes"] == [*([rows, vocab] for rows in (1, 0, 3, 3, 3, 3, 4, 4, 4)), [2, 64], [2, 64]]
    seen = ran["seen"]
    assert seen["prefilled"]["captures"] == seen["prefilled"]["launches"] == 0
    assert seen["prefilled"]["kernels"] > seen["start"]["kernels"]
    assert seen["three"]["captures"] == seen["four"]["captures"] == 1  # three rows and four are one bucket
    assert seen["four"]["kernels"] == seen["three"]["kernels"]
    assert seen["four"]["launches"] - seen["three"]["launches"] == 3
    before, after = seen["four before"], seen["four"]
    assert after["sent"] - before["sent"] == sent  # tokens, how many there were, places; positions
    assert after["fetched"] - before["fetched"] == 1
    assert seen["best"]["captures"] == 2
    assert seen["best"]["captured"] > 0  # the driver knew when: so this means something
    assert seen["best"]["forbidden"] == 0  # nothing waits, allocates or fetches while a graph is captured
    assert ran["copied"]


def test_the_stub_counts_what_a_capture_must_not_do(on_stub):
    assert on_stub("capture.py") == {"before": 0, "during": 4, "after": 4}
