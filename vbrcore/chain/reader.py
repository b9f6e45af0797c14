"""Reading a chain without lock or index."""

from collections.abc import Iterator
from typing import Self

import msgspec

from vbrcore.backupfile.rows import Row
from vbrcore.model.point import Point, PointDisk
from vbrcore.storage.port import Storage


class Location(msgspec.Struct, frozen=True, gc=False):
    """Where an extent was found: `file` is an index into the reader's files, `offset` that of the extent's header."""

    file: int
    offset: int
    row: Row


class ChainReader:
    """Points and extents of one chain; `find`, `read_stored` and `block` may be called from several threads."""

    @classmethod
    def open(cls, storage: Storage, directory: str) -> Self:
        """Read the slots and contents lists of all files. Raises `NotFound`, `FormatInvalid`, `FormatNewer`."""
        raise NotImplementedError

    @property
    def points(self) -> tuple[Point, ...]:
        """Oldest first."""
        raise NotImplementedError

    @property
    def damaged(self) -> frozenset[bytes]:
        """Digests named as damaged in the chain."""
        raise NotImplementedError

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files that could not be read."""
        raise NotImplementedError

    def point(self, point_id: str) -> Point:
        """Return one point; raises `NotFound`."""
        raise NotImplementedError

    def find(self, digest: bytes) -> Location | None:
        """Return where an intact extent of `digest` is."""
        raise NotImplementedError

    def read_stored(self, location: Location, buffer: bytearray | memoryview) -> None:
        """Fill `buffer` (exactly `row.stored_length` bytes) and verify header and checksum. Raises `DataCorrupt`."""
        raise NotImplementedError

    def block(self, digest: bytes) -> bytes:
        """Return the verified raw content of a block, page or configuration. `BlocksMissing`, `DataCorrupt`."""
        raise NotImplementedError

    def leaves(self, point: Point, disk: PointDisk) -> Iterator[tuple[int, bytes]]:
        """Yield (block index, digest) of the disk's blocks that have data, in order."""
        raise NotImplementedError

    def close(self) -> None:
        """Idempotent."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
