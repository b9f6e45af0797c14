"""The mark: which digests the maps of points reach. Nothing is counted along the way, all is walked each time."""

import itertools
import os
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.maps import FetchPage, MapCursor, pages
from vbrcore.chain.closure import same_as
from vbrcore.model.point import Point

_MOST_CELLS: Final = 1 << 26
_LEAST_CELLS: Final = 1 << 13
_CELLS_PER_ROW: Final = 4
_KEY: Final = struct.Struct("<IB")
# Three bits of eight, in as many ways as there are, for each value of a byte.
_WAYS: Final = [sum(1 << bit for bit in bits) for bits in itertools.combinations(range(8), 3)]
_BITS: Final = tuple(_WAYS[value % len(_WAYS)] for value in range(256))


class Reached:
    """A set of digests in at most 64 MiB: a cell of eight bits per digest, of which it sets three (a Bloom filter).

    It may say of a digest that was not added that it was (of 0.4 % at 10 million, of 2 % at 30 million), never the
    other way round: what is dead may stay for a while, what lives is never taken for dead. Which bits a digest has
    differs each time, so what stayed goes the next time.
    """

    def __init__(self, rows: int) -> None:
        cells = min(_MOST_CELLS, max(_LEAST_CELLS, 1 << (rows * _CELLS_PER_ROW).bit_length()))
        self._cells = bytearray(cells)
        self._mask = cells - 1
        self._first = os.urandom(1)[0] % (DIGEST_BYTES - _KEY.size)
        self._keys = struct.Struct(f"<{self._first}xIB{DIGEST_BYTES - self._first - _KEY.size}x")

    def add(self, digest: bytes) -> None:
        self.add_all(digest)

    def add_all(self, digests: bytes) -> None:
        """Add digests that stand one behind the other, as in a page; holes do no harm."""
        cells, mask, bits = self._cells, self._mask, _BITS
        for cell, way in self._keys.iter_unpack(digests):
            cells[cell & mask] |= bits[way]

    def __contains__(self, digest: bytes) -> bool:
        cell, way = _KEY.unpack_from(digest, self._first)
        return not _BITS[way] & ~self._cells[cell & self._mask]


def mark(points: Iterable[Point], fetch: FetchPage, rows: int) -> Reached:
    """Return what `points` (of one generation, which has `rows` rows) reach: blocks, pages and configurations.

    Pages that equal those of the same disk's point before it are not read again. Raises `BlocksMissing`, `DataCorrupt`
    and `FormatInvalid`: what lies below a page that cannot be read is not known, so nobody can tell what is dead.
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
        for name, content in pages(root, size_bytes, block_size_bytes, fetch, skip):
            reached.add(name)
            reached.add_all(content)
        skip = same_as(MapCursor(root, size_bytes, block_size_bytes, fetch))
