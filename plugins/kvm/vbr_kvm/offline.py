"""Machines that are off: their images are read in place, and must not have changed when the last byte was read."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

from vbrcore.model.errors import PermissionRefused, SnapshotInvalid


def stamp(path: str) -> str:
    """Return what changes when an image is written or replaced."""
    try:
        found = Path(path).stat()
    except FileNotFoundError as error:
        raise SnapshotInvalid(f"{path}: the image is gone") from error
    except PermissionError as error:
        raise PermissionRefused(f"{path}: {error}") from error
    if stat.S_ISBLK(found.st_mode):
        return f"{found.st_rdev}:{_writes(found.st_rdev)}"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _writes(device: int) -> str:
    """Return the kernel's count of writes to a block device: it has no time of change."""
    counters = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    return counters.read_text(encoding="ascii").split()[4] if counters.exists() else ""


def check_stamps(stamp_of: Callable[[str], str], files: list[str], stamps: list[str]) -> None:
    """Raise `SnapshotInvalid` if an image was written since."""
    for path, expected in zip(files, stamps, strict=True):
        if stamp_of(path) != expected:
            raise SnapshotInvalid(
                f"{path}: changed while it was read (the machine was started, or its image was written)"
            )
