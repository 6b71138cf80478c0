"""The benchmark of the first promise runs, at a size that measures nothing."""

import json

from bench import promise


def test_the_promise_is_measured_on_both_servers(tmp_path, capsys):
    found = tmp_path / "promise.json"

    assert promise.main(["--chats", "3", "--slots", "2", "--rounds", "1", "--json", str(found)]) == 0

    plain, ours = (json.loads(found.read_text())[side] for side in ("plain", "narthex"))
    assert plain["requests"] == ours["requests"] > 3
    assert {"request_queue", "kv_cache", "adapter_manager", "model_router", "sampling"} <= plain["locks"].keys()
    assert all(lock["acquisitions"] > 0 for lock in plain["locks"].values())
    assert min(side["rounds"][0]["tokens_per_second"] for side in (plain, ours)) > 0
    assert "throughput no worse" in capsys.readouterr().out
