"""Loads golden models, each on a stub of its own settings; prints JSON: what was chosen, or the error, of each."""

import json
import os
import sys
from pathlib import Path

from narthex_server.errors import NarthexError
from narthex_server.loading import LoadOptions, load

GOLDEN = Path(__file__).parents[1] / "golden"


def loaded(model: str, device: str, compute: str, slots: int, settings: dict[str, str]) -> list[str]:
    options = LoadOptions(device=device, compute=compute, slots=slots, max_context=512, cache_dir=None)
    os.environ.update(settings)  # the stub looks there whenever it is asked
    try:
        ready = load(GOLDEN / model, options)
    except NarthexError as error:
        return [error.reason, error.message]
    finally:
        for name in settings:
            del os.environ[name]
    ready.session.close()
    return [ready.device, ready.compute]


print(json.dumps([loaded(*case) for case in json.loads(sys.argv[1])]))
