"""The JSON documents in model folders, which anybody may have written."""

import json
from pathlib import Path
from typing import Any

from narthex_server.errors import InvalidModelFile

_LARGEST = 1 << 26


def read_object(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """The JSON object in a file; empty where an `optional` one is not there. Errors: InvalidModelFile."""
    if optional and not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise InvalidModelFile(f"{path}: not a JSON object")
    return value


def read_json(path: Path) -> Any:
    """The JSON value in a file. Errors: InvalidModelFile where it is missing, not JSON, or absurdly large or deep."""
    try:
        if (size := path.stat().st_size) > _LARGEST:
            raise InvalidModelFile(f"{path}: {size} bytes of JSON; at most {_LARGEST} are read")
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise InvalidModelFile(f"{path}: missing") from error
    except OSError as error:
        raise InvalidModelFile(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidModelFile(f"{path}: not JSON: {error}") from error
