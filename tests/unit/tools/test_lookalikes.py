# ruff: noqa: RUF001 (letters that are taken for others)
import pytest
from narthex_server.tools.lookalikes import skeleton


@pytest.mark.parametrize(
    "name",
    ["rеad_file", "read-file", "reаd_fiIe", "read_fi1e", "rèad_file", "READ_FILE", "ｒead_file", "rea\u200bd_file"],
)
def test_names_that_look_the_same_have_one_skeleton(name):
    assert skeleton(name) == skeleton("read_file")


@pytest.mark.parametrize("name", ["read_files", "write_file", "readfile", "read_fie"])
def test_names_that_do_not_are_told_apart(name):
    assert skeleton(name) != skeleton("read_file")
