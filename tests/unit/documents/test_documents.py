import pytest
from narthex_server.documents import read_object
from narthex_server.errors import InvalidModelFile


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "not JSON"),
        (b"\xff\xfe\xff", "not JSON"),
        ("[]", "not a JSON object"),
        ("[" * 100_000, "not JSON: maximum recursion"),
        ('{"a":' * 100_000, "not JSON: maximum recursion"),
        (None, "missing"),
        (1 << 26, "bytes of JSON; at most"),
    ],
    ids=["cut", "binary", "list", "deep list", "deep object", "missing", "huge"],
)
def test_what_is_no_json_object_is_refused_with_the_reason(tmp_path, text, complaint):
    path = tmp_path / "config.json"
    if isinstance(text, int):
        with path.open("wb") as file:
            file.truncate(text + 1)
    elif text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidModelFile, match=complaint):
        read_object(path)


def test_a_document_that_may_be_missing_is_empty(tmp_path):
    assert read_object(tmp_path / "config.json", optional=True) == {}
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert read_object(tmp_path / "config.json", optional=True) == {"a": 1}
