import os

import pytest
from narthex_mcp import search
from narthex_mcp.search import MAX_DOCUMENT, Library, main
from narthex_mcp.toolbox import Refused


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "docs"
    (root / "deep").mkdir(parents=True)
    (root / "install.md").write_text("# Installing\n\nUse the package manager.\n\nThen configure the *server*.\n")
    (root / "deep" / "page.html").write_text(
        "<html><head><title>Backup &amp; restore</title><style>p {backup: 1}</style></head><body>"
        "<script>var zebra = 1</script><p>Copy the<b> database</b> every night.</p><!-- giraffe --><p>Caf&eacute;</p>"
    )
    (root / "notes.txt").write_text(
        "filler words. " * 400 + "\n\nThe needle is in this paragraph.\n\n" + "more. " * 900
    )
    (root / "picture.png").write_bytes(b"\x89PNG\0needle")
    (root / ".hidden.md").write_text("needle needle")
    (root / "binary.txt").write_bytes(b"needle\0")
    (tmp_path / "outside.md").write_text("needle outside")
    (root / "link.md").symlink_to("../outside.md")
    return root


@pytest.fixture
def library(root, monkeypatch):
    monkeypatch.setattr(search, "FRESH", -1.0)
    return Library(root)


def names(answer):
    return [one["document"] for one in answer.facts["results"]]


async def test_documents_are_searched_and_read_over_stdio(root, running):
    async with running("search", str(root)) as tester:
        assert list(tester.tools) == ["search", "get_document", "list_documents"]
        assert all(tool.annotations.read_only_hint for tool in tester.tools.values())
        (found,) = (await tester.facts("search", query="where is the needle?"))["results"]
        assert found["document"] == "notes.txt" and "needle is in this paragraph" in found["snippet"]
        part = await tester.facts("get_document", document="notes.txt", start=found["start"], length=100)
        assert "needle" in part["text"] and part["total"] == len((root / "notes.txt").read_text())
        listed = await tester.facts("list_documents")
        assert [one["document"] for one in listed["documents"]] == ["deep/page.html", "install.md", "notes.txt"]
        assert (await tester.facts("list_documents", start=2, count=5))["documents"][0]["title"] == "notes.txt"
        assert "list_documents" in await tester.refusal("get_document", document="../outside.md")
        resources = (await tester.client.list_resources()).resources
        assert str(resources[0].uri) == "document:///deep/page.html" and resources[0].title == "Backup & restore"
        (contents,) = (await tester.client.read_resource("document:///install.md")).contents
        assert contents.text.startswith("# Installing")


def test_pages_are_searched_as_they_are_seen(library):
    assert names(library.search("database night backup", 5)) == ["deep/page.html"]
    for hidden in ("zebra", "giraffe", "style"):
        assert names(library.search(hidden, 5)) == []
    assert library.get_document("deep/page.html", 0, 1000).text == "Copy the database every night.\nCafé"


def test_titles_count_and_endings_do_not(library):
    assert names(library.search("installation of packages", 5)) == ["install.md"]
    assert library.list_documents(0, 9).facts["documents"][1]["title"] == "Installing"


def test_changes_are_seen(library, root):
    assert names(library.search("needle", 5)) == ["notes.txt"]
    (root / "new.md").write_text("Another needle\n==============\n")
    (root / "notes.txt").write_text("nothing here")
    assert names(library.search("needle", 5)) == ["new.md"]
    assert library.search("needle", 5).facts["results"][0]["title"] == "Another needle"
    os.remove(root / "new.md")
    assert names(library.search("needle", 5)) == []
    with pytest.raises(Refused):
        library.get_document("new.md", 0, 10)


def test_an_unchanged_document_is_not_read_again(library, root, monkeypatch):
    library.refresh()
    monkeypatch.setattr(search, "text_of_page", lambda page: pytest.fail("read again"))
    monkeypatch.setattr(library._root, "opened", lambda place: pytest.fail("opened again"))
    library.refresh()
    assert library.list_documents(0, 9).facts["total"] == 3


def test_documents_beyond_the_limits_are_left_out(root, monkeypatch):
    (root / "huge.txt").write_text("needle " * (MAX_DOCUMENT // 7 + 1))
    assert names(Library(root).search("needle", 5)) == ["notes.txt"]
    monkeypatch.setattr(search, "MAX_DOCUMENTS", 1)
    assert Library(root).list_documents(0, 9).facts["total"] == 1
    monkeypatch.setattr(search, "MAX_TOTAL", 100)
    assert Library(root).list_documents(0, 9).facts["total"] == 1


@pytest.mark.parametrize(
    "part", ["<p>", "<script>", "<!--", "<a b=", "&#", "</", "# ", "<title", "<title>", "&#9", "9", " "]
)
def test_broken_pages_do_not_matter(root, part):
    (root / "broken.html").write_text("&#" + part * (1_000_000 // len(part)) + "needle")
    (root / "broken.md").write_text("# x" + part * 100_000)
    assert "notes.txt" in names(Library(root).search("needle", 5))


def test_pipes_and_links_that_lead_outside_or_nowhere_are_passed_over(library, root):
    os.mkfifo(root / "pipe.md")
    (root / "nowhere.md").symlink_to("absent.md")
    (root / "round.md").symlink_to("round.md")
    (root / "inside.md").symlink_to("install.md")
    (root / "up").symlink_to("..")
    listed = [one["document"] for one in library.list_documents(0, 9).facts["documents"]]
    assert listed == ["deep/page.html", "inside.md", "install.md", "notes.txt"]


def test_files_whose_names_are_no_text_are_passed_over(library, root):
    os.mkdir(os.fsencode(root) + b"/\xff")
    for name in (b"\xfe.md", b"\xff/a.md"):
        with open(os.fsencode(root) + b"/" + name, "w") as file:
            file.write("zebra")
    assert library.search("zebra", 5).facts["results"] == []


@pytest.mark.parametrize("name", ["../outside.md", "/etc/passwd", "link.md", ".hidden.md", "up/outside.md", "a\0b", ""])
def test_only_what_is_listed_can_be_read(library, root, name):
    with pytest.raises(Refused, match="list_documents"):
        library.get_document(name, 0, 100)
    with pytest.raises(Refused):
        library.read_resource(f"document:///{name}")


def test_a_text_without_lines_has_passages(root):
    (root / "long.txt").write_text("x" * 100_000 + " haystack")
    result = Library(root).search("haystack", 1).facts["results"][0]
    assert result["snippet"].endswith("haystack")


def test_a_root_that_is_no_folder_is_a_usage_error(root, capsys):
    assert main([str(root / "notes.txt")]) == 2
    assert "is not a directory" in capsys.readouterr().err
