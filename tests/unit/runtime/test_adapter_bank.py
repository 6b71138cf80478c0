import json
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from narthex_server.errors import FailedPrecondition, ResourceExhausted
from narthex_server.runtime.adapter_bank import AdapterBank, Limits
from narthex_server.runtime.pages import PAGE

NOTE = json.dumps([["l.0.q", "q", 8, 6], ["l.1.q", "q", 8, 6], ["l.0.v", "v", 8, 4], ["head", "head", 8, 20]])
WIDTHS = {"l.0.q": (8, 6), "l.1.q": (8, 6), "l.0.v": (8, 4), "head": (8, 20)}


@dataclass
class LowRank:
    a: np.ndarray
    b: np.ndarray


@dataclass
class Adapter:
    modules: dict[str, LowRank]


def adapter(value, **ranks):
    names = {"q0": "l.0.q", "q1": "l.1.q", "v": "l.0.v", "head": "head"}
    full = np.float32(value)
    return Adapter(
        {
            names[key]: LowRank(np.full((r, WIDTHS[names[key]][0]), full), np.full((r, WIDTHS[names[key]][1]), full))
            for key, r in ranks.items()
        }
    )


def products(bank, place, *others):
    """a^T b of one place in every module, as the graph computes it together with others."""
    found, bound = {}, bank.inputs([place, *others]).buffers
    for name in WIDTHS:
        kind = {"l.0.q": "q", "l.1.q": "q", "l.0.v": "v", "head": "head"}[name]
        chosen = bound[f"ranks.{kind}"][place]
        found[name] = (bound[f"{name}.a"] * chosen[:, None]).T @ bound[f"{name}.b"]
    return found


def test_places_that_come_and_go_at_random_keep_to_themselves():
    bank, rng = AdapterBank(NOTE, Limits(4, 5, 1 << 20)), random.Random(3)
    loaded: dict[int, Adapter] = {}
    for turn in range(300):
        place = rng.randrange(4)
        if place in loaded:
            bank.unload(place)
            del loaded[place]
        else:
            ranks = {key: rng.randint(1, 5) for key in ("q0", "q1", "v", "head") if rng.random() < 0.7} or {"v": 5}
            loaded[place] = adapter(turn + 1, **ranks)
            bank.check(loaded[place])
            bank.load(place, loaded[place])
        for one in range(4):
            found = products(bank, one, *rng.sample(range(4), rng.randrange(4)))
            for name, widths in WIDTHS.items():
                factors = loaded[one].modules.get(name) if one in loaded else None
                wanted = factors.a.T @ factors.b if factors else np.zeros(widths)
                np.testing.assert_array_equal(found[name], wanted)


def test_only_the_ranks_of_the_adapters_in_use_are_bound_and_one_of_zeros_where_there_are_none():
    bank = AdapterBank(NOTE, Limits(3, 4))

    def extents(*used):
        buffers = bank.inputs(used).buffers
        return {kind: len(buffers[f"{name}.a"]) for kind, name in (("v", "l.0.v"), ("q", "l.1.q"), ("head", "head"))}

    assert extents(0) == {"v": 1, "q": 1, "head": 1} and not bank.inputs([0]).buffers["head.a"].any()
    for place, rank in ((0, 2), (1, 3), (2, 4)):
        bank.load(place, adapter(place + 1, v=rank, q0=rank))
    assert [extents(place)["v"] for place in range(3)] == [2, 3, 4]
    assert extents(0, 1) == {"v": 5, "q": 5, "head": 1} and extents(0, 2)["v"] == 9
    assert bank.inputs([0, 2]) is bank.inputs([2, 0]) is bank.inputs([0, 1, 2])
    bank.unload(1)
    assert extents(1)["v"] == 1 and not products(bank, 1)["l.0.v"].any()


def test_what_does_not_fit_is_refused_with_its_numbers():
    bank = AdapterBank(NOTE, Limits(2, 4, 1000))
    unknown = Adapter({"l.9.q": LowRank(np.ones((1, 8)), np.ones((1, 6)))})
    with pytest.raises(FailedPrecondition, match=r"changes l\.9\.q"):
        bank.check(unknown)
    with pytest.raises(FailedPrecondition, match=r"for 8 columns and 7 rows, the model's has 8 and 6"):
        bank.check(Adapter({"l.0.q": LowRank(np.ones((1, 8), np.float32), np.ones((1, 7), np.float32))}))
    with pytest.raises(ResourceExhausted, match="rank is 5, the limit of this server 4"):
        bank.check(adapter(1, v=5))
    with pytest.raises(ResourceExhausted, match=r"size in bytes is \d+, the limit of this server 1000"):
        bank.check(adapter(1, head=4, q0=4, q1=4, v=4))


@pytest.mark.skipif(sys.platform != "linux", reason="pages are given back on Linux only")
def test_an_unloaded_adapter_costs_no_memory():
    wide = 1 << 20
    bank = AdapterBank(json.dumps([["l.0.q", "q", wide, 8], ["l.1.q", "q", wide, 8]]), Limits(2, 8))
    bank.load(0, Adapter({"l.0.q": LowRank(np.ones((8, wide), np.float32), np.ones((8, 8), np.float32))}))
    loaded = resident()
    bank.unload(0)
    assert loaded - resident() > 1 << 24


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
