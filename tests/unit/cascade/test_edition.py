"""Whose results another narthex's are."""

from narthex_server.cascade.server import Cascade
from narthex_server.principal import Principal
from narthex_server.tools.reach import Reach
from narthex_server.tools.tool import CallContext
from narthex_server.tools.upstream.source import Narthex, ServerSource

ANN, AMY = (CallContext(Principal(name, "a"), "test") for name in ("ann", "amy"))


def far(**more: bool) -> Cascade:
    narthex = Narthex("127.0.0.1:1", **more)
    return Cascade(ServerSource("far", narthex), narthex, Reach())


def test_a_narthex_that_is_not_told_who_calls_answers_all_of_a_tenant_alike():
    one = far()
    assert one.edition(ANN) == one.edition(AMY) != far().edition(ANN)


def test_a_narthex_that_is_told_may_answer_each_otherwise():
    one = far(delegate=True)
    assert one.edition(ANN) != one.edition(AMY) and one.edition(ANN) == one.edition(ANN)
