"""Whether it is time to look for what is dead. An estimate only: what is dead is found out by the mark alone.

It stands in a file beside the index, on the local disk: where that is missing, it is time.
"""

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

from vbrcore.backupfile.file import BackupFile

_NAME: Final = "forgotten-bytes"
_DUE_PART: Final = 0.03


class Due:
    """The bytes that forgotten points may have left, up to now."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / _NAME

    def forgetting(self, point_ids: Collection[str], files: Iterable[BackupFile]) -> None:
        """These points are about to be forgotten: what was new in them, or in the points after them, may be dead."""
        files = [file for file in files if file.contents.points]
        noted = self._read()
        if noted is None:
            return
        shares = [file.slot.body_end / len(file.contents.points) for file in files]
        for place, file in enumerate(files):
            count = sum(point.point_id in point_ids for point in file.contents.points)
            noted += count * max(shares[place : place + 2])
        self._write(noted)

    def is_due(self, stored_bytes: int) -> bool:
        """`stored_bytes`: what the chain takes now."""
        noted = self._read()
        return noted is None or noted >= _DUE_PART * stored_bytes

    def done(self) -> None:
        self._write(0)

    def _read(self) -> float | None:
        try:
            return float(self._path.read_text())
        except (OSError, ValueError):
            return None

    def _write(self, noted: float) -> None:
        try:
            self._path.write_text(str(noted))
        except OSError:
            with contextlib.suppress(OSError):  # then it is time
                self._path.unlink()
