"""What the newest points reach that has no row any more, after files or tables were lost."""

from collections.abc import Sequence
from typing import Final

from vbrcore.backupfile.maps import FetchPage, walk
from vbrcore.chain.closure import Have
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid
from vbrcore.model.point import Point, PointDisk

# Beyond this many lost digests a disk is named by its root: all of it is then asked for again.
_MOST_PER_DISK: Final = 8192
_BATCH: Final = 1024


def find_lost(points: Sequence[Point], have: Have, fetch: FetchPage) -> frozenset[bytes]:
    """Return the digests of blocks and pages that the newest point of each machine reaches and that are not there.

    A page that is lost stands for all below it.
    """
    newest = {(point.plugin, point.machine_id): point for point in points}
    lost: set[bytes] = set()
    for point in newest.values():
        for disk in point.disks:
            lost |= _lost_of(point, disk, have, fetch)
    return frozenset(lost)


def _lost_of(point: Point, disk: PointDisk, have: Have, fetch: FetchPage) -> set[bytes]:
    lost: set[bytes] = set()
    batch: list[bytes] = []

    def sort_out() -> None:
        lost.update(digest for digest, there in zip(batch, have(batch), strict=True) if not there)
        batch.clear()

    def unreadable(level: int, _: int, digest: bytes) -> bool:
        if level:
            try:
                fetch(digest)
            except (BlocksMissing, DataCorrupt):
                lost.add(digest)
                return True
        return False

    try:
        for level, _, digest in walk(disk.root, disk.size_bytes, point.block_size_bytes, fetch, unreadable):
            if level == 0:
                batch.append(digest)
            if len(batch) >= _BATCH:
                sort_out()
            if len(lost) > _MOST_PER_DISK:
                return {disk.root}
        sort_out()
    except FormatInvalid:
        return {disk.root}
    return lost
