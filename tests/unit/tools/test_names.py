import re

from narthex_server.tools.names import LIMIT, aliases, exposed_name


def test_names_have_the_letters_that_every_client_accepts():
    assert exposed_name("fs", "read_file") == "fs__read_file"
    assert exposed_name("my server", "read.file/äö") == "my_server__read_file___"


def test_a_prefix_stands_before_one_underscore():
    assert exposed_name("server", "read", "fs") == "fs_read"
    assert exposed_name("server", "read", "") == "read"


def test_long_names_are_cut_to_the_same_distinct_name_every_time():
    one, other = exposed_name("s", "x" * 70 + "1"), exposed_name("s", "x" * 70 + "2")
    assert one != other and one == exposed_name("s", "x" * 70 + "1")
    assert len(one) == LIMIT and re.fullmatch(r"[A-Za-z0-9_-]+", one)


def test_calls_may_use_colons_and_dots():
    assert aliases("fs", "read.file")[:2] == ("fs::read.file", "fs.read.file")
