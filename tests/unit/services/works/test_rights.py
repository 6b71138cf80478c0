"""Work that was given is begun while the keys that it rests on are as good as they were."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from narthex.keys import Key, KeyRing
from narthex.scopes import ToolScope
from narthex_server.errors import PermissionDenied
from narthex_server.principal import LOCAL, Principal
from narthex_server.services.works.rights import KeyRights
from narthex_server.services.works.whose import Whose

CI = Key("ci", "", "acme", tools=ToolScope(("time__*", "chat")))
BRIDGE = Key("bridge", "", delegate=True)
PAST = datetime(2020, 1, 1, tzinfo=UTC)

OWN = Principal("ci", "acme", CI.tools, key="ci")
SPOKEN_FOR = Principal("ann", "acme", voucher="bridge")
BOTH = replace(OWN, voucher="bridge")


def check(principal: Principal, keys: Sequence[Key], *, required: bool = True) -> None:
    """As it comes back from where it was kept."""
    KeyRights(KeyRing(keys), required=required).check(Whose.parse(Whose(principal).dump()).principal)


@pytest.mark.parametrize(
    ("principal", "keys"),
    [
        (OWN, [CI]),
        (OWN, [replace(CI, tools=ToolScope())]),
        (replace(OWN, tools=ToolScope(("chat",))), [CI]),
        (SPOKEN_FOR, [BRIDGE]),
        (BOTH, [BRIDGE, CI]),
    ],
    ids=["as it was", "may do more", "with fewer tools", "a delegate's", "a delegate's, with a key of its own"],
)
def test_keys_that_are_there_are_enough(principal: Principal, keys: Sequence[Key]) -> None:
    check(principal, keys)


@pytest.mark.parametrize(
    ("principal", "keys"),
    [
        (OWN, []),
        (OWN, [replace(CI, expires=PAST)]),
        (OWN, [replace(CI, tools=ToolScope(("chat",)))]),
        (OWN, [replace(CI, tenant="umbrella")]),
        (replace(OWN, admin=True), [CI]),
        (SPOKEN_FOR, [CI]),
        (SPOKEN_FOR, [replace(BRIDGE, delegate=False)]),
        (BOTH, [BRIDGE]),
        (BOTH, [CI]),
        (LOCAL, [CI]),
    ],
    ids=[
        "gone", "expired", "fewer tools", "another tenant", "no admin any more", "no delegate",
        "not a delegate any more", "its own is gone", "its delegate's is gone", "of a time without keys",
    ],
)  # fmt: skip
def test_keys_that_are_not_as_good_as_they_were_are_not(principal: Principal, keys: Sequence[Key]) -> None:
    with pytest.raises(PermissionDenied) as caught:
        check(principal, keys)
    assert caught.value.reason == "KEY_REVOKED"


def test_where_nobody_needs_a_key_nobody_loses_one() -> None:
    check(LOCAL, [], required=False)
