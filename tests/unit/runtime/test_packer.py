import numpy as np
from narthex_server.runtime.paged.blocks import Blocks
from narthex_server.runtime.paged.packer import Chunks, Packer

PACKER = Packer(Blocks.holding(slots=3, tokens=20, size=8), max_len=20, long_prompt=10)
CHUNKS = Chunks(
    tokens=np.array([5, 6, 7, 9]), counts=np.array([3, 1]), slots=np.array([2, 0]), past=np.array([7, 0]),
    known=np.array([11, 4]),
)  # fmt: skip


def test_blocks_of_a_slot_hold_at_least_its_tokens():
    assert (PACKER.blocks.per_slot, PACKER.blocks.count, PACKER.blocks.capacity) == (3, 9, 24)
    assert [PACKER.blocks.used(tokens) for tokens in (0, 1, 8, 9, 20)] == [0, 1, 1, 2, 3]


def test_each_token_has_its_place_and_its_position():
    feeds = PACKER.pack(CHUNKS, np.array([2, 3]))
    assert {name: value.tolist() for name, value in feeds.items()} == {
        "tokens": [[5, 6, 7, 9]],
        "rows": [2, 3],
        "cu_seqlens": [0, 3, 4],
        "past_seqlens": [7, 0],
        "block_table": [[6, 7, 8], [0, 1, 2]],
        "slot_mapping": [2 * 24 + 7, 2 * 24 + 8, 2 * 24 + 9, 0],
        "positions": [[20 + 7, 20 + 8, 20 + 9, 0]],  # a prompt of eleven is a long one
        "attention_metadata": [3, 24],
    }
    assert {name: value.dtype for name, value in feeds.items()} == {
        name: np.int64 if name in ("tokens", "rows", "positions") else np.int32 for name in feeds
    }


def test_what_fills_a_bucket_writes_nowhere():
    feeds = PACKER.pack(CHUNKS, np.array([2, 3]), sequences=4)
    assert feeds["cu_seqlens"].tolist() == [0, 3, 4, 5, 6]
    assert feeds["slot_mapping"][4:].tolist() == [-1, -1]
    assert feeds["past_seqlens"].tolist() == [7, 0, 0, 0]
    assert feeds["block_table"].shape == (4, 3)
