"""The one writer of a chain."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final, Self

from vbrcore.backupfile.rows import Row
from vbrcore.model.point import Point
from vbrcore.storage.port import Storage

HAVE: Final = 0
WAIT: Final = 1
SEND: Final = 2


class ChainWriter:
    """Appends extents and commits points; thread-safe unless noted. An error of `sync` ends it for good."""

    @classmethod
    def open(
        cls,
        storage: Storage,
        directory: str,
        *,
        job_id: str,
        job_name: str,
        session_id: str,
        created: float,
        block_size_bytes: int,
        index_directory: Path,
        fence: Callable[[], None] = lambda: None,
        machine_id: str = "",
        machine: str = "",
    ) -> Self:
        """Take the chain's lock, read what its files say and bring the index up to date.

        `machine_id` and `machine` only for a chain of one machine. `fence` is called before each write and raises when
        this process was cut off. Raises `ChainLocked`, `FormatNewer`, and what the storage raises.
        """
        raise NotImplementedError

    @property
    def points(self) -> tuple[Point, ...]:
        """Committed and not forgotten, oldest first."""
        raise NotImplementedError

    @property
    def damaged(self) -> frozenset[bytes]:
        """Digests whose every row is known to be damaged: to be sent anew."""
        raise NotImplementedError

    @property
    def warnings(self) -> tuple[str, ...]:
        """What was found while opening: unreadable files, a chain begun anew."""
        raise NotImplementedError

    @property
    def stored_bytes(self) -> int:
        """Bytes this writer has appended to backup files."""
        raise NotImplementedError

    def lookup(self, digests: Sequence[bytes], owner: int) -> bytes:
        """Return one of `HAVE`, `WAIT`, `SEND` per digest; `SEND` is a promise to `owner` until it appends."""
        raise NotImplementedError

    def release_owner(self, owner: int) -> None:
        """Give up the promises of a source that is gone, so that others are asked."""
        raise NotImplementedError

    def append(self, row: Row, stored: bytes | bytearray | memoryview, owner: int = 0) -> None:
        """Write one extent whose checksum the caller has verified. A digest that is there already is dropped."""
        raise NotImplementedError

    def page(self, digest: bytes) -> bytes:
        """Return the raw content of a page or any other extent. Raises `BlocksMissing` or `DataCorrupt`."""
        raise NotImplementedError

    def commit_point(self, point: Point) -> Point:
        """Closure check, then commit; returns the point with `sequence` and `kind` set. Durable on return.

        Raises `BlocksMissing`, `WriterReplaced`, `StorageFailed`, ...; then nothing is visible.
        """
        raise NotImplementedError

    def checkpoint_if_due(self) -> None:
        """Commit rows without a point every 4 GiB, so that a retry finds what was sent. Cheap when not due."""
        raise NotImplementedError

    def forget(self, point_ids: Iterable[str]) -> None:
        """Write contents lists without these points, both slots. Ids that are not there are passed over."""
        raise NotImplementedError

    def seal(self) -> None:
        """Commit what is there, write one sorted table and both slots, give back lock and index. Last call."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back lock and index without another write. Idempotent; also after an error."""
        raise NotImplementedError
