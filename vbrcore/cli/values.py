"""Values on the command line: sizes, durations, settings."""

from __future__ import annotations

import re
from collections.abc import Iterable

from vbrcore.cli.api import errors

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3, "T": 1024**4}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def size_bytes(text: str) -> int:
    """Read "20G", "512MiB" or "4096"; units are powers of 1024."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise errors.InvalidValue(f"{text!r} is no size: give a number with K, M, G or T, e.g. 20G")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def duration_s(text: str) -> int:
    """Read "90s", "15m", "2h" or "1d"."""
    match = _DURATION.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise errors.InvalidValue(f"{text!r} is no duration: give a number with s, m, h or d, e.g. 15m")
    return int(match[1]) * _SECONDS[match[2]]


def pairs(texts: Iterable[str], option: str) -> dict[str, str]:
    """["k=v", ...] as a dictionary; a key may stand only once."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise errors.InvalidValue(f"{option} {text!r}: give KEY=VALUE")
        if key in found:
            raise errors.InvalidValue(f"{option} {key!r} is given twice")
        found[key] = value
    return found
