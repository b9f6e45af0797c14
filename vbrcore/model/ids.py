"""Identifiers: random, never reused, safe in file names and on command lines."""

import re
import uuid

_SAFE = re.compile(r"[^A-Za-z0-9._-]+")


def new_id() -> str:
    """Return a random UUID (RFC 9562, version 4) in its 36-character form."""
    return str(uuid.uuid4())


def short_id(full_id: str) -> str:
    """Return the first 8 characters of an id: for names that people read beside a time stamp."""
    return full_id[:8]


def file_name_part(name: str) -> str:
    """Return `name` as a part of a file name: no separators, no leading dot, at most 64 characters."""
    safe = _SAFE.sub("_", name).lstrip(".")[:64]
    return safe or "_"
