from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from narthex.settings import Address, NamedPath, NamedText, NamedUrl, SettingsError, flattened, load, option, parse


@dataclass(frozen=True, slots=True)
class Inner:
    cert: Path | None = option(None, "a file")


@dataclass(frozen=True, slots=True)
class Tree:
    where: Address = option(Address("127.0.0.1", 1), "an address")
    count: int = option(8, "a number", minimum=1)
    wait: float = option(1.5, "seconds")
    loud: bool = option(False, "a switch")
    kind: Literal["a", "b"] = option("a", "a choice")
    model: tuple[NamedPath, ...] = option((), "models")
    source: tuple[NamedPath | NamedUrl, ...] = option((), "sources")
    word: tuple[NamedText, ...] = option((), "words")
    inner: Inner = field(default_factory=Inner)


def filled(flags=None, environ=None, text=None, folder=None, **options):
    file = None
    if text is not None:
        file = folder / "narthex.toml"
        file.write_text(text)
    return load(Tree, "server", flags or {}, environ=environ or {}, file=file, **options)


def test_flags_win_over_the_environment_over_the_file_over_the_default(tmp_path):
    text = "[server]\ncount = 2\nwait = 2\nloud = true\n"
    tree = filled({"count": "4"}, {"NARTHEX_COUNT": "3", "NARTHEX_WAIT": "3"}, text, tmp_path)
    assert (tree.count, tree.wait, tree.loud, tree.kind) == (4, 3.0, True, "a")


def test_a_nested_tree_is_a_table_a_variable_and_a_flag(tmp_path):
    assert filled(text='[server.inner]\ncert = "c.pem"', folder=tmp_path).inner.cert == tmp_path / "c.pem"
    assert filled(environ={"NARTHEX_INNER_CERT": "/c.pem"}).inner.cert == Path("/c.pem")
    assert parse(Tree, "server", ["--inner-cert", "/d.pem"], prog="x", description="").inner.cert == Path("/d.pem")


def test_repeated_settings_come_as_list_table_variable_and_flags(tmp_path):
    two = (NamedPath("a", Path("/x")), NamedPath("b", Path("/y")))
    assert filled(text='[server]\nmodel = ["a=/x", "b=/y"]', folder=tmp_path).model == two
    assert filled(text='[server.model]\na = "/x"\nb = "/y"', folder=tmp_path).model == two
    assert filled(environ={"NARTHEX_MODEL": "a=/x,b=/y"}).model == two
    assert parse(Tree, "server", ["--model", "a=/x", "--model", "b=/y"], prog="x", description="").model == two


def test_paths_in_a_file_are_relative_to_it(tmp_path):
    assert filled(text='[server]\nmodel = ["m.gguf"]', folder=tmp_path).model == (NamedPath("m", tmp_path / "m.gguf"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=openai+http://h:1/v1", NamedUrl("a", "openai", "http://h:1/v1")),
        ("a=openai+https://h/v1/#org/m:x", NamedUrl("a", "openai", "https://h/v1", "org/m:x")),
        ("a=openai-embed+http://[::1]:1/v1", NamedUrl("a", "openai-embed", "http://[::1]:1/v1")),
        ("a=openai/model.gguf", NamedPath("a", Path("openai/model.gguf"))),
        ("a=http://h/v1", NamedPath("a", Path("http:/h/v1"))),
    ],
)
def test_a_source_is_a_path_or_an_api_behind_a_url(text, expected, tmp_path):
    (source,) = filled({"source": [text]}).source
    assert source == expected
    if isinstance(source, NamedUrl):
        assert filled(text=f'[server]\nsource = ["{text}"]', folder=tmp_path).source == (expected,), (
            "no path to relocate"
        )
        assert ("source", str(source)) in [*flattened(filled({"source": [text]}))] and str(source).startswith(
            "a=openai"
        )


def test_texts_have_names():
    assert filled({"word": ["a=b=c"]}).word == (NamedText("a", "b=c"),)
    assert ("word", "a=b") in [*flattened(filled({"word": ["a=b"]}))]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ({"count": "x"}, "--count: 'x' is not a whole number"),
        ({"count": "0"}, "--count: '0' is below 1"),
        ({"wait": "nan"}, "--wait: 'nan' is not a finite number"),
        ({"where": "host"}, "--where: 'host' is not HOST:PORT"),
        ({"where": "host:70000"}, "from 0 to 65535"),
        ({"kind": "c"}, "--kind: 'c' is not one of a, b"),
        ({"loud": "maybe"}, "is neither true nor false"),
        ({"model": ["=x"]}, "is not NAME=PATH"),
        ({"source": ["a=openai+ftp://h"]}, "is not NAME=openai+URL, with http"),
        ({"source": ["a=openai+http://"]}, "is not NAME=openai+URL"),
        ({"source": ["=openai+http://h"]}, "is not NAME=openai+URL"),
        ({"source": ["a=openai+http://h:x/"]}, "is not NAME=openai+URL"),
        ({"source": ["a=openai+http://[/"]}, "is not NAME=openai+URL"),
        ({"word": ["a="]}, "is not NAME=TEXT"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_place(flags, told):
    with pytest.raises(SettingsError) as caught:
        filled(flags)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[server]\ncuont = 2", 'unknown key "server.cuont"; did you mean "count"?'),
        ("[server]\nxyzzy = 2", "known: count, inner, kind, loud, model, source, wait, where, word"),
        ("[server.inner]\ncrt = 'x'", 'unknown key "server.inner.crt"; did you mean "cert"?'),
        ("[sever]\ncount = 2", '[sever] is not a section; did you mean "server"?'),
        ("[server]\ninner = 3", "server.inner must be a table"),
        ("[server]\ncount = 'x'", "server.count in "),
        ("[server]\ncount = true", "is not a whole number"),
        ("[server]\nwhere = 3", "is not a string"),
        ("[server]\nmodel = 'x'", "is not a list"),
        ("[server", "not TOML"),
    ],
)
def test_a_mistake_in_the_file_is_told_with_the_file(text, told, tmp_path):
    with pytest.raises(SettingsError) as caught:
        filled(text=text, folder=tmp_path)
    assert told in str(caught.value)
    assert "narthex.toml" in str(caught.value)


def test_a_partial_reader_ignores_keys_it_does_not_declare(tmp_path):
    assert filled(text="[server]\nother = 2\ncount = 3", folder=tmp_path, partial=True).count == 3


def test_a_file_that_is_missing_is_told(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read"):
        load(Tree, "server", {}, environ={}, file=tmp_path / "none.toml")


def test_a_mistake_on_the_command_line_exits_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        parse(Tree, "server", ["--count", "x"], prog="narthex server", description="")
    assert ended.value.code == 2
    assert "narthex server: --count" in capsys.readouterr().err


def test_addresses_of_ipv6_keep_their_brackets():
    address = Address.parse("[::1]:80")
    assert (address.host, address.port, str(address)) == ("::1", 80, "[::1]:80")
