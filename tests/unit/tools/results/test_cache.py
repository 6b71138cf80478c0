"""The cache against the simplest one that could be meant: a list of entries, the one asked for last at its end."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from narthex_server.tools.results.cache import LARGEST_SHARE, OVERHEAD, CacheLimits, ResultCache
from narthex_server.tools.tool import ToolResult

LIMITS = CacheLimits(max_bytes=40 * OVERHEAD, max_entries=6)
KEYS = st.integers(0, 9)


def result(size: int, name: int = 0) -> ToolResult:
    return ToolResult(b"x" * size, meta=b"%d" % name)


@dataclass
class Known:
    key: int
    result: ToolResult
    end: float

    @property
    def size(self) -> int:
        return len(self.result.content) + len(self.result.meta) + OVERHEAD


class CacheAgainstList(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.evicted = []
        self.cache = ResultCache(LIMITS, self.evicted.append, lambda: self.now)
        self.known: list[Known] = []
        self.number = self.gone = 0

    @rule(key=KEYS, size=st.integers(0, 5 * OVERHEAD), ttl=st.floats(0.1, 10))
    def put(self, key, size, ttl):
        self.number += 1
        new = Known(key, result(size, self.number), self.now + ttl)
        self.cache.put(key, new.result, ttl)
        self.known = [one for one in self.known if one.key != key]
        if new.size > LIMITS.max_bytes // LARGEST_SHARE:
            return
        while self.known and (
            self.known[0].end <= self.now
            or len(self.known) >= LIMITS.max_entries
            or sum(one.size for one in self.known) + new.size > LIMITS.max_bytes
        ):
            del self.known[0]
            self.gone += 1
        self.known.append(new)

    @rule(key=KEYS)
    def get(self, key):
        found = next((one for one in self.known if one.key == key), None)
        if found is not None:
            self.known.remove(found)
            if found.end > self.now:
                self.known.append(found)
            else:
                self.gone += 1
        assert self.cache.get(key) == (found.result if found in self.known else None)

    @rule(seconds=st.floats(0, 6))
    def wait(self, seconds):
        self.now += seconds

    @invariant()
    def it_holds_what_the_list_holds_and_no_more_than_it_may(self):
        assert len(self.cache) == len(self.known) <= LIMITS.max_entries
        assert self.cache.bytes == sum(one.size for one in self.known) <= LIMITS.max_bytes
        assert len(self.evicted) == self.gone


TestCacheAgainstList = CacheAgainstList.TestCase
TestCacheAgainstList.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_was_asked_for_last_stays():
    evicted = []
    cache = ResultCache(CacheLimits(max_entries=2), evicted.append)
    for key in "ab":
        cache.put(key, result(1), 60)
    assert cache.get("a") is not None
    cache.put("c", result(1), 60)
    assert [cache.get(key) is not None for key in "abc"] == [True, False, True] and evicted == ["space"]


def test_a_result_that_would_push_out_the_others_is_not_kept():
    cache = ResultCache(CacheLimits(max_bytes=16 * OVERHEAD))
    cache.put("small", result(1), 60)
    cache.put("large", result(2 * OVERHEAD), 60)
    assert cache.get("small") is not None and cache.get("large") is None
    cache.put("small", result(2 * OVERHEAD), 60)
    assert cache.get("small") is None and cache.bytes == 0, "nor is what it is to replace"
