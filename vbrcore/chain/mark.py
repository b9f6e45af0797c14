"""The mark: which digests the maps of points reach. Nothing is counted along the way, all is walked each time."""

import os
from collections.abc import Iterable, Sequence
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.maps import FetchPage, MapCursor, walk
from vbrcore.chain.closure import same_as
from vbrcore.model.point import Point

_MOST_BITS: Final = 1 << 29
_LEAST_BITS: Final = 1 << 16
_BITS_PER_ROW: Final = 32
_KEY_BYTES: Final = 8


class Reached:
    """A set of digests in at most 64 MiB: a bitmap with two bits per digest (a Bloom filter).

    It may say of a digest that was not added that it was (of 0.2 % at 10 million, of 1 % at 30 million), never the
    other way round: what is dead may stay for a while, what lives is never taken for dead. Which bits a digest has
    differs each time, so what stayed goes the next time.
    """

    def __init__(self, rows: int) -> None:
        bits = min(_MOST_BITS, max(_LEAST_BITS, 1 << (rows * _BITS_PER_ROW).bit_length()))
        self._bits = bytearray(bits // 8)
        self._mask = bits - 1
        self._first = os.urandom(1)[0] % (DIGEST_BYTES - 2 * _KEY_BYTES)

    def add(self, digest: bytes) -> None:
        for place in self._places(digest):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, digest: bytes) -> bool:
        one, two = self._places(digest)
        bits = self._bits
        return bool(bits[one >> 3] >> (one & 7) & bits[two >> 3] >> (two & 7) & 1)

    def _places(self, digest: bytes) -> tuple[int, int]:
        first = self._first
        key = int.from_bytes(digest[first : first + 2 * _KEY_BYTES], "little")
        return key & self._mask, key >> (8 * _KEY_BYTES) & self._mask


def mark(points: Iterable[Point], fetch: FetchPage, rows: int) -> Reached:
    """Return what `points` (of one generation, which has `rows` rows) reach: blocks, pages and configurations.

    What equals the same disk's point before it is not walked again. Raises `BlocksMissing`, `DataCorrupt` and
    `FormatInvalid`: what lies below a page that cannot be read is not known, so nobody can tell what is dead.
    """
    reached = Reached(rows)
    disks: dict[tuple[str, str, str], list[tuple[bytes, int, int]]] = {}
    for point in sorted(points, key=lambda point: point.sequence):
        if point.configuration:
            reached.add(point.configuration)
        for disk in point.disks:
            maps = disks.setdefault((point.plugin, point.machine_id, disk.disk_id), [])
            maps.append((disk.root, disk.size_bytes, point.block_size_bytes))
    for maps in disks.values():
        _mark_disk(maps, fetch, reached)
    return reached


def _mark_disk(maps: Sequence[tuple[bytes, int, int]], fetch: FetchPage, reached: Reached) -> None:
    skip = None
    for root, size_bytes, block_size_bytes in maps:
        for _, _, digest in walk(root, size_bytes, block_size_bytes, fetch, skip):
            reached.add(digest)
        skip = same_as(MapCursor(root, size_bytes, block_size_bytes, fetch))
