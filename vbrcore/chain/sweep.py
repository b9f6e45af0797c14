"""The sweep: which rows of a file are still needed, after a mark."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.contents import is_gone
from vbrcore.backupfile.file import BackupFile
from vbrcore.backupfile.rows import HEADER_BYTES
from vbrcore.backupfile.slots import BODY_OFFSET, SLOT_OFFSETS
from vbrcore.backupfile.tables import read_rows
from vbrcore.chain.mark import Reached
from vbrcore.model.errors import DataCorrupt
from vbrcore.storage.port import Reader

_BATCH: Final = 4096

# Digests to (file id, 8 bytes of the offset) each, or None.
Places = Callable[[Sequence[bytes]], Sequence[tuple[bytes, bytes] | None]]


class Swept(msgspec.Struct):
    """What a file holds. Bytes are those of whole extents as they stand, padding included.

    `gone`: a bitmap over its rows with all that is not live, be it given back already or not. `fresh_rows` and
    `fresh_bytes`: what is not live and was not gone before. `mourned`: the file names an extent as damaged that is
    reached and of which there is no other copy; with the file that would be forgotten.
    """

    file: BackupFile
    gone: bytearray
    live_rows: int = 0
    live_bytes: int = 0
    fresh_rows: int = 0
    fresh_bytes: int = 0
    mourned: bool = False

    @property
    def needed_bytes(self) -> int:
        """What the file takes when all that is not live is a hole."""
        lengths = [self.file.slot.contents_length, *(part.end - part.offset for part in self.file.contents.tables)]
        alignment = self._alignment
        return self._slots_bytes + self.live_bytes + sum(-(-length // alignment) * alignment for length in lengths)

    @property
    def whole_bytes(self) -> int:
        """What the file takes when nothing of its body is a hole."""
        return self._slots_bytes + self.file.slot.body_end - BODY_OFFSET

    @property
    def dead_bytes(self) -> int:
        """What a file without holes would take less if it were moved."""
        return max(0, self.whole_bytes - self.needed_bytes)

    @property
    def _alignment(self) -> int:
        return self.file.slot.alignment_bytes

    @property
    def _slots_bytes(self) -> int:
        return len(SLOT_OFFSETS) * self._alignment


def sweep(file: BackupFile, reader: Reader, reached: Reached, places: Places) -> Swept:
    """Look at each row: it is live when it is reached and the index has no other copy. Raises `DataCorrupt`.

    Rows of extents known to be damaged are live to none.
    """
    swept = Swept(file, bytearray(-(-file.contents.rows // 8)))
    damaged = {(damage.digest, damage.offset) for damage in file.contents.damaged}
    named = [damage.digest for damage in file.contents.damaged if damage.digest in reached]
    swept.mourned = None in places(named)
    rows = numbered_rows(file, reader)
    while batch := list(islice(rows, _BATCH)):
        candidates = [
            (number, row)
            for number, row in batch
            if row[:DIGEST_BYTES] in reached
            and not is_gone(file.gone, number)
            and (not damaged or (row[:DIGEST_BYTES], offset_of(row)) not in damaged)
        ]
        found = places([row[:DIGEST_BYTES] for _, row in candidates])
        live = {
            number
            for (number, row), place in zip(candidates, found, strict=True)
            if place is None or place == (file.file_id, row[DIGEST_BYTES : DIGEST_BYTES + 8])
        }
        for number, row in batch:
            length = extent_bytes(row, file)
            if number in live and not BODY_OFFSET <= offset_of(row) <= file.slot.body_end - length:
                raise DataCorrupt(f"{file.name}: the extent of row {number} lies outside of the file")
            if number in live:
                swept.live_rows += 1
                swept.live_bytes += length
                continue
            swept.gone[number >> 3] |= 1 << (number & 7)
            if not is_gone(file.gone, number):
                swept.fresh_rows += 1
                swept.fresh_bytes += length
    return swept


def numbered_rows(file: BackupFile, reader: Reader) -> Iterator[tuple[int, bytes]]:
    """Yield (number, row) of all rows of a file, in the order in which they are numbered. Raises `DataCorrupt`."""
    number = 0
    for part in file.contents.tables:
        for row in read_rows(reader, part):
            yield number, row
            number += 1


def live_rows(swept: Swept, reader: Reader) -> Iterator[bytes]:
    return (row for number, row in numbered_rows(swept.file, reader) if not is_gone(swept.gone, number))


def offset_of(row: bytes) -> int:
    """Where the header of the row's extent stands."""
    return int.from_bytes(row[DIGEST_BYTES : DIGEST_BYTES + 8], "little")


def extent_bytes(row: bytes, file: BackupFile) -> int:
    """What the row's extent takes, padding included."""
    length = HEADER_BYTES + int.from_bytes(row[DIGEST_BYTES + 8 : DIGEST_BYTES + 12], "little")
    alignment = file.slot.alignment_bytes
    return -(-length // alignment) * alignment


def joined(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yield (offset, length) in order, neighbours as one."""
    start, end = 0, 0
    for offset, length in sorted(ranges):
        if offset != end:
            if end > start:
                yield start, end - start
            start = offset
        end = offset + length
    if end > start:
        yield start, end - start
