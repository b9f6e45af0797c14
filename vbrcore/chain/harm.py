"""What damage means for points: which bytes of which disks cannot be read, of which points, and why."""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from vbrcore.backupfile.codec import ZERO_DIGEST
from vbrcore.backupfile.maps import FANOUT, ZERO_PAGE, block_count, height, split, walk
from vbrcore.chain.diagnosis import What
from vbrcore.chain.mark import Reached
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid, FormatNewer, NotFound
from vbrcore.model.point import Point, PointDisk

# Beyond so many a page names ranges and no digests: that is a file which is missing, not a block.
_MOST_PER_PAGE: Final = 4 * FANOUT
_MOST_PAGES: Final = 512 * 1024
_UNREADABLE: Final = (BlocksMissing, DataCorrupt, FormatInvalid, FormatNewer, NotFound)


class Hole(msgspec.Struct, frozen=True, gc=False):
    """`count` blocks from block `start` on that cannot be read because of `digest` (empty: of several)."""

    start: int
    count: int
    digest: bytes
    what: What


class _Below(msgspec.Struct, frozen=True, gc=False):
    """What is wrong below a page, and how many blocks from its start it reaches."""

    holes: tuple[Hole, ...]
    used: int


_SOUND: Final = _Below((), 0)


class Harm:
    """Walks maps; what lies below a page is looked at once, however many points share it.

    A digest is lost that has no intact extent in the chain; with `only`, one of these. Not thread-safe.
    """

    def __init__(self, reader: ChainReader, only: frozenset[bytes] | None = None) -> None:
        self._reader = reader
        self._only = only
        self._pages: dict[tuple[bytes, int], _Below] = {}

    def of_disk(self, point: Point, disk: PointDisk) -> tuple[Hole, ...]:
        """Return what of a disk cannot be read, in order."""
        blocks = block_count(disk.size_bytes, point.block_size_bytes)
        below = self._below(disk.root, height(disk.size_bytes, point.block_size_bytes))
        if below.used > blocks:  # a map that names blocks beyond the end of its disk is none
            return (Hole(0, blocks, disk.root, "page"),)
        return tuple(
            msgspec.structs.replace(hole, count=min(hole.count, blocks - hole.start))
            for hole in below.holes
            if hole.start < blocks
        )

    def is_lost(self, digest: bytes) -> bool:
        """Say so of a block or a configuration."""
        if self._only is not None:
            return digest in self._only
        try:
            return self._reader.find(digest) is None
        except _UNREADABLE:
            return True

    def _below(self, digest: bytes, level: int) -> _Below:
        if digest == ZERO_DIGEST:
            return _SOUND
        if level == 0:
            return _Below((Hole(0, 1, digest, "block"),) if self.is_lost(digest) else (), 1)
        known = self._pages.get((digest, level))
        if known is None:
            if len(self._pages) >= _MOST_PAGES:
                self._pages.clear()
            known = self._pages[digest, level] = self._look_below(digest, level)
        return known

    def _look_below(self, digest: bytes, level: int) -> _Below:
        if self._only is not None and digest in self._only:
            return _lost_page(digest, level)
        try:
            children = split(self._reader.block(digest))
        except _UNREADABLE:
            return _SOUND if self._only is not None else _lost_page(digest, level)
        span = FANOUT ** (level - 1)
        holes: list[Hole] = []
        used = 0
        for number, child in enumerate(children):
            if child == ZERO_DIGEST:
                continue
            below = self._below(child, level - 1)
            used = number * span + below.used
            for hole in below.holes:
                holes.append(msgspec.structs.replace(hole, start=number * span + hole.start))  # noqa: PERF401
        return _Below(_joined(holes) if len(holes) > _MOST_PER_PAGE else tuple(holes), used)


def _lost_page(digest: bytes, level: int) -> _Below:
    # How far it reached is not known: one block at least, and not beyond its disk.
    return _Below((Hole(0, FANOUT**level, digest, "page"),), 1)


def _joined(holes: Sequence[Hole]) -> tuple[Hole, ...]:
    joined: list[Hole] = []
    for hole in holes:
        last = joined[-1] if joined else None
        if last is not None and last.start + last.count >= hole.start:
            count = max(last.count, hole.start + hole.count - last.start)
            joined[-1] = Hole(last.start, count, b"", "block")
        else:
            joined.append(hole)
    return tuple(joined)


def reached_by(points: Iterable[Point], reader: ChainReader) -> Reached:
    """Return what points reach as far as their maps can be read."""

    def fetch(digest: bytes) -> bytes:
        try:
            page = reader.block(digest)
            split(page)
        except _UNREADABLE:
            return ZERO_PAGE
        return page

    reached = Reached(sum(file.contents.rows for file in reader.files.files))
    for point in points:
        if point.configuration:
            reached.add(point.configuration)
        for disk in point.disks:
            try:
                for _, _, digest in walk(disk.root, disk.size_bytes, point.block_size_bytes, fetch):
                    reached.add(digest)
            except FormatInvalid:  # `Harm` says so
                continue
    return reached
