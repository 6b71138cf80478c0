"""Runs a golden model on the stub GPU as the engine would; prints what the driver saw: JSON."""

import ctypes
import json
import sys
from pathlib import Path

import numpy as np
from narthex_server.loading import LoadOptions, load
from narthex_server.runtime.paged.session import PagedDecoderSession

GOLDEN = Path(__file__).parents[1] / "golden"


def counts(driver: ctypes.CDLL) -> dict[str, int]:
    names = ("kernels", "captured", "captures", "launches", "sent", "fetched", "forbidden")
    return {name: ctypes.c_int.in_dll(driver, f"stub_{name}").value for name in names}


def main(model: str, compute: str) -> None:
    options = LoadOptions(device="cuda", compute=compute, slots=6, max_context=512, cache_dir=None)
    loaded = load(GOLDEN / model, options)
    session, driver = loaded.session, ctypes.CDLL("libcudart.so.13")
    assert isinstance(session, PagedDecoderSession)
    ids, seen = np.arange(40), {"start": counts(driver)}
    shapes = [session.prefill(0, ids, 0, np.array([39]), 80).shape, session.prefill(0, ids, 40, np.arange(0), 80).shape]
    seen["prefilled"] = counts(driver)
    for step in range(4):
        shapes.append(session.decode(0, ids[:3], np.full(3, 80 + step, np.int32), np.arange(3)).shape)
    seen["three"] = counts(driver)
    for step in range(3):
        shapes.append(session.decode(0, ids[step : step + 4], np.full(4, 90 + step, np.int32), np.arange(4)).shape)
        seen["four before" if step < 2 else "four"] = counts(driver)
    best = session.decode_best(0, ids[:4], np.full(4, 95, np.int32), np.array([1, 3]))
    shapes += [best.logits.shape, best.tokens.shape]
    seen["best"] = counts(driver)
    cache = next(iter(session._graph._caches.values()))  # type: ignore[union-attr]
    rows = np.arange(12 * int(np.prod(cache.shape()[1:]))).reshape(cache.shape()).astype(np.uint16)
    ctypes.memmove(cache.data_ptr(), rows.ctypes.data, rows.nbytes)
    session.copy(1, 4, 300)
    copied = np.empty_like(rows)
    ctypes.memmove(copied.ctypes.data, cache.data_ptr(), rows.nbytes)
    rows[8:10] = rows[2:4]
    session.close()
    facts = {"device": loaded.device, "compute": loaded.compute, "copied": bool((rows == copied).all())}
    print(json.dumps({"shapes": shapes, "seen": seen, **facts}))


main(*sys.argv[1:])
