"""The closure check: every digest that a point reaches must have an intact row."""

from collections.abc import Callable, Sequence
from typing import Final

from vbrcore.backupfile.maps import FetchPage, MapCursor, walk
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid
from vbrcore.model.point import Point

_BATCH: Final = 1024

Have = Callable[[Sequence[bytes]], Sequence[bool]]


def check_closure(point: Point, previous: Point | None, have: Have, fetch: FetchPage) -> None:
    """Raise `BlocksMissing` when `point` reaches a digest without a row.

    `previous` is a committed point of the same machine and generation whose every digest is known to have one: what
    equals it at the same place is not entered. None: everything is walked.
    """
    checker = _Checker(point, have)
    if point.configuration:
        checker.add(point.configuration)
    bases = {disk.disk_id: disk for disk in previous.disks} if previous is not None else {}
    for disk in point.disks:
        skip = None
        base = bases.get(disk.disk_id)
        if base is not None:
            before = MapCursor(base.root, base.size_bytes, point.block_size_bytes, fetch)
            skip = same_as(before)
        for level, _, digest in walk(disk.root, disk.size_bytes, point.block_size_bytes, fetch, skip):
            checker.add(digest)
            if level:
                checker.flush()  # a page is fetched next, so it must be there
    checker.flush()


def same_as(before: MapCursor) -> Callable[[int, int, bytes], bool]:
    """Return what tells of a node (level, index, digest) whether the other map has the same at its place."""

    def same(level: int, index: int, digest: bytes) -> bool:
        try:
            return before.node(level, index) == digest
        except (BlocksMissing, DataCorrupt, FormatInvalid):
            return False  # a base that cannot be read vouches for nothing

    return same


class _Checker:
    """Collects digests and asks for them in batches."""

    def __init__(self, point: Point, have: Have) -> None:
        self._point = point
        self._have = have
        self._batch: list[bytes] = []

    def add(self, digest: bytes) -> None:
        self._batch.append(digest)
        if len(self._batch) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        batch, self._batch = self._batch, []
        missing = [digest for digest, there in zip(batch, self._have(batch), strict=True) if not there]
        if missing:
            raise BlocksMissing(
                f"{self._point.machine}: {len(missing)} of {len(batch)} blocks never arrived, e.g. {missing[0].hex()}"
            )
