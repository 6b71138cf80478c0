from types import SimpleNamespace

import pytest
from narthex_server.config.server import ServerConfig
from narthex_server.errors import ResourceExhausted
from narthex_server.starting import cache_room, engine_options


def model(token_bytes):
    return SimpleNamespace(session=SimpleNamespace(token_bytes=token_bytes, slots=4))


def test_memory_becomes_tokens_of_this_model():
    options = engine_options("m", model(1000), ServerConfig(prefill_chunk=32, max_waiting=7, speculate=False), 123_456)
    assert (options.kv_tokens, options.prefill_tokens, options.max_waiting, options.speculate) == (123, 32, 7, False)


def test_the_engine_takes_in_whatever_its_pool_admits_however_few_may_wait():
    assert engine_options("m", model(1000), ServerConfig(max_waiting=0), 123_456).max_waiting == 4 + 2


def test_memory_for_next_to_nothing_is_refused_with_the_numbers():
    with pytest.raises(
        ResourceExhausted, match=r"1000 bytes for each token.*3000 bytes are enough for 3 only.*--kv-memory"
    ):
        engine_options("m", model(1000), ServerConfig(), 3000)


def test_without_memory_left_nothing_is_shared_out():
    assert cache_room(ServerConfig(), 0) == 0


def test_where_the_system_does_not_say_all_slots_may_fill():
    assert cache_room(ServerConfig(), None) > 1 << 60


def test_what_is_configured_wins_over_what_is_left():
    assert cache_room(ServerConfig(kv_memory=5), 100) == 5
