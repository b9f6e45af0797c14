"""Which blocks of a VHDX hold data: QEMU reads the format but does not tell, so an empty 2 TiB would be read in full.

Reads the block allocation table and nothing else, of an image that qemu-nbd has opened, so its log needs no replay.
Whatever is not as expected makes the whole disk data: a wrong guess here would lose data, a missing one costs time.
"""

import os
import struct
from collections.abc import Iterator

from vbrcore.plugins.mover import Extent

_REGION_TABLE_OFFSET = 192 * 1024
_BAT = bytes.fromhex("6677c22d23f600429d64115e9bfd4a08")
_METADATA = bytes.fromhex("06a27c8b90479a4bb8fe575f050f886e")
_FILE_PARAMETERS = bytes.fromhex("3767a1ca36fa434db3b633f0aa44e76b")
_DISK_SIZE = bytes.fromhex("2442a52f1bcd7648b2115dbed83bf4b8")
_SECTOR_SIZE = bytes.fromhex("1dbf41816fa90947ba47f233a8faab5f")

_MAX_ENTRIES = 2047
_HAS_PARENT = 2
_STATE = 7
_READS_AS_ZERO = frozenset({0, 1, 2, 3})  # not present, undefined, zero, unmapped
_PART_ENTRIES = 128 * 1024


class _Unexpected(Exception):
    """The file is not laid out as expected."""


def extents(path: str, size_bytes: int) -> Iterator[Extent]:
    """Yield data and zero extents that cover the disk; neighbours may be of the same state."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        bat, block_bytes, ratio = _layout(descriptor, size_bytes)
    except (_Unexpected, struct.error):
        yield Extent(0, size_bytes, "data")
        return
    else:
        yield from _blocks(descriptor, bat, block_bytes, ratio, size_bytes)
    finally:
        os.close(descriptor)


def _blocks(descriptor: int, bat: int, block_bytes: int, ratio: int, size_bytes: int) -> Iterator[Extent]:
    offset = index = 0
    while offset < size_bytes:
        part = os.pread(descriptor, 8 * _PART_ENTRIES, bat + 8 * index)
        entries = memoryview(part)[: len(part) // 8 * 8].cast("Q")
        if not entries:  # the table is cut off
            yield Extent(offset, size_bytes - offset, "data")
            return
        for entry in entries:
            index += 1
            if index % (ratio + 1) == 0:
                continue  # a sector bitmap follows the blocks of each chunk
            length = min(block_bytes, size_bytes - offset)
            yield Extent(offset, length, "zero" if entry & _STATE in _READS_AS_ZERO else "data")
            offset += length
            if offset == size_bytes:
                return


def _layout(descriptor: int, size_bytes: int) -> tuple[int, int, int]:
    """Return the place of the allocation table, the block size, and the number of blocks in a chunk."""
    signature, _, count, _ = struct.unpack("<4sIII", os.pread(descriptor, 16, _REGION_TABLE_OFFSET))
    if signature != b"regi" or count > _MAX_ENTRIES:
        raise _Unexpected
    table = os.pread(descriptor, 32 * count, _REGION_TABLE_OFFSET + 16)
    regions = {guid: (offset, length) for guid, offset, length, _ in struct.iter_unpack("<16sQII", table)}
    if len(regions) != count or _BAT not in regions or _METADATA not in regions:
        raise _Unexpected
    items = _metadata(descriptor, regions[_METADATA][0])
    block_bytes, flags = struct.unpack("<II", items[_FILE_PARAMETERS][:8])
    (size,) = struct.unpack("<Q", items[_DISK_SIZE][:8])
    (sector_bytes,) = struct.unpack("<I", items[_SECTOR_SIZE][:4])
    if size != size_bytes or flags & _HAS_PARENT or sector_bytes not in {512, 4096}:
        raise _Unexpected
    if not 1 << 20 <= block_bytes <= 256 << 20 or block_bytes & (block_bytes - 1):
        raise _Unexpected
    ratio = (1 << 23) * sector_bytes // block_bytes
    blocks = -(-size // block_bytes)
    bat, bat_bytes = regions[_BAT]
    if blocks and bat_bytes < 8 * (blocks + (blocks - 1) // ratio):
        raise _Unexpected
    return bat, block_bytes, ratio


def _metadata(descriptor: int, region: int) -> dict[bytes, bytes]:
    signature, _, count = struct.unpack("<8sHH", os.pread(descriptor, 12, region))
    if signature != b"metadata" or count > _MAX_ENTRIES:
        raise _Unexpected
    items = {
        guid: os.pread(descriptor, 16, region + offset)
        for guid, offset, _, _, _ in struct.iter_unpack("<16sIIII", os.pread(descriptor, 32 * count, region + 32))
        if guid in {_FILE_PARAMETERS, _DISK_SIZE, _SECTOR_SIZE}
    }
    if len(items) != 3:
        raise _Unexpected
    return items
