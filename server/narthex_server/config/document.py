"""Configuration that is a JSON file of its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from narthex.settings import SettingsError


def read_document(path: Path) -> Mapping[str, Any]:
    """A JSON object from a file; SettingsError where it is not one."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_document(content, path)


def parse_document(content: bytes, path: Path) -> Mapping[str, Any]:
    """A JSON object, read from `path`; SettingsError where it is not one."""
    try:
        document = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{path}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: must hold a JSON object")
    return document
