import sys

from narthex.cli.environment import server_environment


def test_the_server_gets_huge_pages_on_linux():
    wanted = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if sys.platform == "linux" else {}
    assert server_environment({"A": "b"}) == {"A": "b", **wanted}


def test_what_the_user_tuned_stays():
    assert server_environment({"GLIBC_TUNABLES": "glibc.malloc.check=1"}) == {"GLIBC_TUNABLES": "glibc.malloc.check=1"}
