"""Rows and extent headers: 64 bytes each, little-endian (docs/FORMAT.md, "Rows" and "Extents")."""

import struct
from typing import Final

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES, ZERO_DIGEST, checksum
from vbrcore.model.errors import DataCorrupt, FormatInvalid, FormatNewer
from vbrcore.model.job import BLOCK_SIZES_BYTES

KIND_BLOCK: Final = 0
KIND_PAGE: Final = 1
KIND_CONFIGURATION: Final = 2

ROW_BYTES: Final = 64
HEADER_BYTES: Final = 64
FLAG_ENCRYPTED: Final = 1
MAX_RAW_BYTES: Final = 64 * 1024 * 1024
# How much longer than its content an extent may be: what does not compress grows a little, then salt, nonce and tag.
_GROWN_BYTES: Final = 64 * 1024
MAX_STORED_BYTES: Final = MAX_RAW_BYTES + _GROWN_BYTES
# By kind: the largest block, a page, a configuration.
_MOST_RAW_BYTES: Final = (BLOCK_SIZES_BYTES[-1], 256 * DIGEST_BYTES, MAX_RAW_BYTES)

_ROW = struct.Struct("<32sQIIQBBHI")
_HEADER = struct.Struct("<4sIQ32sIBBH")
_HEADER_SUM = struct.Struct("<Q")
_HEADER_MAGIC = b"VBRX"


class Row(msgspec.Struct, frozen=True, gc=False):
    """What is known of an extent apart from its place. Lengths in bytes; `checksum` is xxh3-64 of the stored bytes."""

    digest: bytes
    stored_length: int
    raw_length: int
    codec: int
    kind: int
    checksum: int
    flags: int = 0

    @property
    def encrypted(self) -> bool:
        return bool(self.flags & FLAG_ENCRYPTED)


def check_row(row: Row) -> None:
    """Raise `FormatInvalid` (or `FormatNewer`) when a row from outside cannot be true."""
    if len(row.digest) != DIGEST_BYTES or row.digest == ZERO_DIGEST:
        raise FormatInvalid("a row has no digest")
    if row.flags & ~FLAG_ENCRYPTED or row.kind > KIND_CONFIGURATION:
        raise FormatNewer(f"a row has kind {row.kind} and flags {row.flags}, which this version does not know")
    lengths_true = 0 < row.raw_length <= _MOST_RAW_BYTES[row.kind]
    if not lengths_true or not 0 < row.stored_length <= row.raw_length + _GROWN_BYTES:
        raise FormatInvalid(f"a row has impossible lengths: {row.stored_length} stored, {row.raw_length} raw")
    if row.encrypted and row.kind == KIND_PAGE:
        raise FormatInvalid("a row of an encrypted map page: there are none")


def pack_row(row: Row, offset: int) -> bytes:
    """Return the 64 bytes of `row` for an extent whose header stands at `offset`."""
    return _ROW.pack(
        row.digest, offset, row.stored_length, row.raw_length, row.checksum, row.kind, row.codec, row.flags, 0
    )


def unpack_row(data: bytes | bytearray | memoryview, position: int = 0) -> tuple[Row, int]:
    """Return (row, offset) from the 64 bytes at `position`. Raises `FormatInvalid` or `FormatNewer`."""
    digest, offset, stored_length, raw_length, xxh3, kind, codec, flags, _ = _ROW.unpack_from(data, position)
    row = Row(digest, stored_length, raw_length, codec, kind, xxh3, flags)
    check_row(row)
    return row, offset


def pack_header(row: Row) -> bytes:
    """Return the 64-byte header that stands before an extent's stored bytes."""
    head = _HEADER.pack(
        _HEADER_MAGIC, row.stored_length, row.checksum, row.digest, row.raw_length, row.kind, row.codec, row.flags
    )
    return head + _HEADER_SUM.pack(checksum(head))


def check_header(header: bytes | bytearray | memoryview, row: Row) -> None:
    """Raise `DataCorrupt` unless the header at an extent's place repeats the row that led there."""
    if header != pack_header(row):
        raise DataCorrupt(f"the extent of {row.digest.hex()[:16]} is not where its row says, or is damaged")
