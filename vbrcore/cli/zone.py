"""The name of this machine's time zone."""

from __future__ import annotations

import os
from pathlib import Path
from zoneinfo import ZoneInfo

_LOCALTIME = Path("/etc/localtime")


def local_zone(localtime: Path = _LOCALTIME) -> str:
    """Return the IANA name of the local zone: TZ, else where `localtime` links to, else "UTC"."""
    named = os.environ.get("TZ", "").removeprefix(":")
    if named and _known(named):
        return named
    try:
        target = localtime.readlink().as_posix()
    except OSError:
        return "UTC"
    _, _, name = target.partition("zoneinfo/")
    return name if name and _known(name) else "UTC"


def _known(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):  # ZoneInfoNotFoundError is a KeyError
        return False
    return True
