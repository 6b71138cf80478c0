"""Results of tickets that are over."""

from pathlib import Path
from typing import Any

import pytest
from narthex.v1 import lot_pb2 as lot
from narthex_server.errors import FailedPrecondition
from narthex_server.lot.ticket import Quota
from narthex_server.lot.webhooks import Hosts
from narthex_server.principal import REQUEST_ID
from narthex_server.services import tickets
from narthex_server.services.tickets import Office, Tickets
from narthex_server.services.works.orders import Orders
from narthex_server.sync.locks import Locks
from narthex_server.tools.acts import Unrecorded

from tests.unit.services.works.test_parking import Spoken, context, request, served


@pytest.mark.parametrize("large", [0, 1 << 20])
async def test_a_result_that_no_message_could_hold_is_not_put_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int
) -> None:
    monkeypatch.setattr(tickets, "LARGE", large)
    kind = Spoken(["a", "b"])
    kind.go_on.set()
    REQUEST_ID.set("t")
    async with served(tmp_path / "t.sqlite", kind) as (parking, desk):
        await parking.result("generate", request(), context())
        office = Office(desk, parking._works, Orders(), Quota(), Hosts(()), Unrecorded())
        service = Tickets(office, {}, Locks("plain"))  # type: ignore[arg-type]

        async def fetched() -> list[Any]:
            return [one async for one in service.Fetch(lot.FetchRequest(ticket_id="t"), context())]

        (result,) = await fetched()
        assert result.generate.text == "ab"
        monkeypatch.setattr(tickets, "LARGEST", 10)
        with pytest.raises(FailedPrecondition, match="fetch its events") as caught:
            await fetched()
        assert caught.value.reason == "RESULT_TOO_LARGE"
