"""Whether it is time to look for what is dead. An estimate only: what is dead is found out by the mark alone.

It stands in a file beside the index, on the local disk: where that is missing, it is time.
"""

import contextlib
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from vbrcore.backupfile.file import BackupFile

_NAME: Final = "due.json"
_DUE_PART: Final = 0.03
_WEEK_S: Final = 7 * 86400.0


class _Noted(msgspec.Struct):
    """`run`: the number of the last run that ended well. `marked`: when the dead were last looked for (epoch)."""

    forgotten_bytes: float
    run: int
    marked: float


class Due:
    """What forgotten points may have left up to now, and whether the run before this one ended well.

    `last_run`: the highest number of a run that the files name. One that died may have left extents of no point.
    """

    def __init__(self, directory: Path, last_run: int) -> None:
        self._path = directory / _NAME
        self._last_run = last_run

    def forgetting(self, point_ids: Collection[str], generations: Iterable[Sequence[BackupFile]]) -> None:
        """These points are about to be forgotten. `generations`: the files of each, oldest first."""
        noted = self._read()
        if noted is not None:
            noted.forgotten_bytes += sum(_may_die(point_ids, files) for files in generations)
            self._write(noted)

    def is_due(self, stored_bytes: int) -> bool:
        """`stored_bytes`: what the chain takes now. It is time when 3 % of it may be dead, or weekly."""
        noted = self._read()
        if noted is None or noted.run != self._last_run:
            return True
        age_s = time.time() - noted.marked
        return noted.forgotten_bytes >= _DUE_PART * stored_bytes or not 0 <= age_s < _WEEK_S

    def done(self) -> None:
        """All that is dead was looked for just now. What died before this run is dealt with too."""
        self._write(_Noted(0.0, self._last_run, time.time()))

    def ended(self, run: int) -> None:
        """This run ends well; its number is the highest that the files name now."""
        noted = self._read()
        if noted is not None and noted.run == self._last_run:
            noted.run = run
            self._write(noted)

    def _read(self) -> _Noted | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Noted)
        except (OSError, msgspec.MsgspecError):
            return None

    def _write(self, noted: _Noted) -> None:
        try:
            self._path.write_bytes(msgspec.json.encode(noted))
        except OSError:
            with contextlib.suppress(OSError):  # then it is time
                self._path.unlink()


def _may_die(point_ids: Collection[str], files: Sequence[BackupFile]) -> float:
    """Return the bytes that one generation may lose: what was new in these points, or in the points after them.

    With its last point goes all of it.
    """
    listing = [file for file in files if file.contents.points]
    if listing and all(point.point_id in point_ids for file in listing for point in file.contents.points):
        return sum(file.slot.body_end for file in files)
    shares = [file.slot.body_end / len(file.contents.points) for file in listing]
    counts = [sum(point.point_id in point_ids for point in file.contents.points) for file in listing]
    return sum(count * max(shares[place : place + 2]) for place, count in enumerate(counts))
