import re

from narthex_server.tools.names import LIMIT, aliases, distinct_name, exposed_name
from narthex_server.tools.presentation import Presentation


def test_names_have_the_letters_that_every_client_accepts():
    assert exposed_name("fs", "read_file") == "fs__read_file"
    assert exposed_name("my server", "read.file/äö") == "my_server__read_file___"


def test_a_prefix_stands_before_one_underscore():
    assert exposed_name("server", "read", Presentation("fs")) == "fs_read"
    assert exposed_name("server", "read", Presentation("")) == "read"


def test_a_tool_may_be_named_by_the_configuration():
    presentation = Presentation("fs", rename={"read": "look"})
    assert exposed_name("server", "read", presentation) == "look"
    assert exposed_name("server", "write", presentation) == "fs_write"


def test_what_has_no_name_gets_one():
    assert re.fullmatch(r"_[0-9a-f]{8}", exposed_name("server", "", Presentation("")))


def test_a_second_attempt_is_another_name():
    assert distinct_name("a", "s", "t") != distinct_name("a", "s", "t", 1)


def test_long_names_are_cut_to_the_same_distinct_name_every_time():
    one, other = exposed_name("s", "x" * 70 + "1"), exposed_name("s", "x" * 70 + "2")
    assert one != other and one == exposed_name("s", "x" * 70 + "1")
    assert len(one) == LIMIT and re.fullmatch(r"[A-Za-z0-9_-]+", one)


def test_calls_may_use_colons_and_dots():
    assert aliases("fs", "read.file")[:2] == ("fs::read.file", "fs.read.file")
