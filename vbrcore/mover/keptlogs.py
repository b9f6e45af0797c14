"""What a mover said last, kept beside the bundle until its manager has it: files of at most 1 MiB in `log/`.

Who may still write to one, or will remove it, holds it locked shared. One that nobody holds was left by a mover that
was cut off: the next transport there gives it to its manager.
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator
from pathlib import Path

LIMIT_BYTES = 1024 * 1024
_NAME = re.compile(r"[0-9A-Za-z._-]{1,200}\.jsonl")
_MAX_LEFT = 100


class KeptLog:
    """One such file, open for adding lines. `path` is made with its directory, for this account only."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def add(self, line: bytes) -> None:
        """Add lines; the older half goes when there are too many. Raises OSError."""
        size = os.fstat(self._descriptor).st_size
        if size + len(line) > LIMIT_BYTES:
            kept = os.pread(self._descriptor, LIMIT_BYTES // 2, max(0, size - LIMIT_BYTES // 2))
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, kept.partition(b"\n")[2])
        os.write(self._descriptor, line[-LIMIT_BYTES // 2 :])

    def remove(self) -> None:
        """Its lines have arrived where they belong."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def log_name(job_id: str, session_id: str, pid: int, mover_id: int) -> str:
    """Return the name of a mover's file; what is no plain id is left out of it."""
    ids = "_".join(re.sub(r"[^0-9A-Za-z-]", "", text)[:64] for text in (job_id, session_id))
    return f"{ids}_{pid}-{mover_id}.jsonl"


def left_logs(directory: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and lines of what movers that are gone have left. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(directory.iterdir())[:_MAX_LEFT]:
            if _NAME.fullmatch(path.name) and (data := _if_left(path)) is not None:
                yield path.name, data


def forget_log(directory: Path, name: str) -> None:
    """Remove one that was given to a manager; another name than of such a file is none."""
    if _NAME.fullmatch(name):
        (directory / name).unlink(missing_ok=True)


def _if_left(path: Path) -> bytes | None:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return file.read(LIMIT_BYTES)
