from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
from narthex_server.errors import InvalidModelFile
from narthex_server.weights.gguf_model import models_among, open_gguf

Write = Callable[..., list[Path]]


@pytest.fixture
def write_parts(tmp_path: Path) -> Write:
    """Write tensor t<n> into the n-th of several parts, as llama.cpp splits files; `fields` change the second's."""

    def write(parts: int, **fields: int) -> list[Path]:
        paths = []
        for number in range(parts):
            path = tmp_path / f"big-{number + 1:05}-of-{parts:05}.gguf"
            writer = gguf.GGUFWriter(path, "llama")
            known = {"no": number, "count": parts, "name": number} | (fields if number == 1 else {})
            writer.add_uint16("split.no", known["no"])
            writer.add_uint16("split.count", known["count"])
            writer.add_int32("split.tensors.count", fields.get("tensors", parts))
            if number == 0:
                writer.add_string("only.in.the.first", "yes")
            writer.add_tensor(f"t{known['name']}", np.full((2, 4), number, np.float32))
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
            paths.append(path)
        return paths

    return write


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_part_opens_the_whole_model(write_parts: Write, opened: int) -> None:
    paths = write_parts(3)
    model = open_gguf(paths[opened])
    assert model.paths == tuple(paths) and model.path == paths[0]
    assert model.metadata["only.in.the.first"] == "yes"
    assert [float(model.tensors[f"t{number}"].dense().mean()) for number in range(3)] == [0, 1, 2]
    assert models_among(paths) == paths[:1]


def test_missing_parts_are_named(write_parts: Write) -> None:
    paths = write_parts(3)
    paths[0].unlink()
    paths[2].unlink()
    with pytest.raises(InvalidModelFile, match=r"big-00001-of-00003\.gguf, big-00003-of-00003\.gguf are missing"):
        open_gguf(paths[1])


def test_very_many_missing_parts_are_counted(write_parts: Write, tmp_path: Path) -> None:
    path = write_parts(2, count=60_000)[1].rename(tmp_path / "big-00002-of-60000.gguf")
    with pytest.raises(InvalidModelFile, match="and 59991 more are missing"):
        open_gguf(path)


def test_a_part_under_another_name_is_refused(write_parts: Write, tmp_path: Path) -> None:
    path = write_parts(2)[0].rename(tmp_path / "other.gguf")
    with pytest.raises(InvalidModelFile, match=r"one of 2 parts.* end in -00001-of-00002\.gguf"):
        open_gguf(path)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"no": 2}, "split.no and split.count are 2 and 3; its name says 1 and 3"),
        ({"count": 4}, "split.no and split.count are 1 and 4; its name says 1 and 3"),
        ({"tensors": 5}, "split.tensors.count is 5, the 3 parts have 3"),
        ({"name": 0}, "tensor t0 is in an earlier part too"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(write_parts: Write, fields: dict, complaint: str) -> None:
    with pytest.raises(InvalidModelFile, match=complaint):
        open_gguf(write_parts(3, **fields)[0])
