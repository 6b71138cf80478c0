import os
from pathlib import Path

import pytest
from narthex_server.progress import Stage
from narthex_server.runtime.cache import GRAPH, GraphCache, entry_key


def write_graph(folder: Path) -> None:
    (folder / GRAPH).write_bytes(b"graph")


def test_an_entry_is_built_once(tmp_path):
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        write_graph(folder)

    cache = GraphCache(tmp_path)
    first, second = cache.find_or_build("k", build), cache.find_or_build("k", build)
    assert first == second
    assert first.read_bytes() == b"graph"
    assert len(built) == 1


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def build(folder: Path) -> None:
        write_graph(folder)
        raise RuntimeError("half way")

    with pytest.raises(RuntimeError):
        GraphCache(tmp_path).find_or_build("k", build)
    assert not list((tmp_path / "graphs").iterdir())


def test_whoever_comes_second_uses_the_entry_of_the_first(tmp_path):
    cache = GraphCache(tmp_path)

    def build(folder: Path) -> None:
        cache.find_or_build("k", write_graph)  # another process finishes while this one builds
        (folder / GRAPH).write_bytes(b"late")

    assert cache.find_or_build("k", build).read_bytes() == b"graph"
    assert [entry.name for entry in (tmp_path / "graphs").iterdir()] == ["k"]


def test_the_digest_follows_the_content(tmp_path):
    cache, file = GraphCache(tmp_path / "cache"), tmp_path / "weights"
    file.write_bytes(b"one")
    one = cache.content_digest([file])
    assert cache.content_digest([file]) == one
    file.write_bytes(b"two, longer")
    assert cache.content_digest([file]) != one
    os.truncate(file, 0)
    file.write_bytes(b"one")
    copy = tmp_path / "copy"
    copy.write_bytes(b"one")
    assert cache.content_digest([file]) == cache.content_digest([copy]) == one


def test_the_key_follows_content_options_and_code(tmp_path):
    code = tmp_path / "graph.py"
    code.write_text("one")
    keys = {entry_key("a", {"max_len": 1}, [tmp_path]), entry_key("b", {"max_len": 1}, [tmp_path])}
    keys.add(entry_key("a", {"max_len": 2}, [tmp_path]))
    code.write_text("two")
    keys.add(entry_key("a", {"max_len": 1}, [tmp_path]))
    assert len(keys) == 4


def test_code_may_be_single_files_too(tmp_path):
    file, other = tmp_path / "one.py", tmp_path / "two.py"
    file.write_text("one")
    other.write_text("two")
    assert entry_key("a", {}, [file]) != entry_key("a", {}, [other])


def test_an_entry_that_nothing_used_for_a_month_makes_room(tmp_path):
    cache = GraphCache(tmp_path)
    old = cache.find_or_build("old", write_graph).parent
    cache.find_or_build("used", write_graph)
    month_ago = old.stat().st_mtime - 31 * 86400
    for name in ("old", "used"):
        os.utime(tmp_path / "graphs" / name, (month_ago, month_ago))
    cache.find_or_build("used", write_graph)
    cache.find_or_build("new", write_graph)
    assert sorted(entry.name for entry in (tmp_path / "graphs").iterdir()) == ["new", "used"]


def test_reading_is_told_over_all_files_and_can_be_given_up(tmp_path):
    cache, files, told = GraphCache(tmp_path / "cache"), [tmp_path / name for name in "ab"], []
    for file in files:
        file.write_bytes(bytes(1000))
    cache.content_digest(files, lambda stage, fraction: told.append((stage, fraction)))
    assert told == [(Stage.READ, 0.5), (Stage.READ, 1.0)]
    files[0].write_bytes(b"changed")

    def give_up(stage: Stage, fraction: float) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        cache.content_digest(files, give_up)
