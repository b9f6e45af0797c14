"""Table parts: sorted rows of a file, written whole, read in steps or searched in place."""

import bisect
import hashlib
import heapq
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.contents import TablePart
from vbrcore.backupfile.rows import HEADER_BYTES, ROW_BYTES
from vbrcore.model.errors import DataCorrupt
from vbrcore.storage.port import ALIGNMENT_BYTES, Reader

_HEADER: Final = struct.Struct("<4sIQ48x")
_MAGIC: Final = b"VBRT"
_STEP_ROWS: Final = 4096
_WINDOW_ROWS: Final = 64


def read_rows(reader: Reader, part: TablePart, step_rows: int = _STEP_ROWS) -> Iterator[bytes]:
    """Yield the rows of a part in order, 64 bytes each, reading `step_rows` at a time.

    Raises `DataCorrupt` after the last row when they are not what the contents list says: a caller that acts on rows
    before then must be able to take that back.
    """
    whole = hashlib.sha256()
    for first in range(0, part.rows, step_rows):
        step = _read(reader, part, first, min(step_rows, part.rows - first))
        whole.update(step)
        yield from (step[i : i + ROW_BYTES] for i in range(0, len(step), ROW_BYTES))
    if whole.digest() != part.sha256:
        raise DataCorrupt(f"the table part at {part.offset} is damaged")


def search(reader: Reader, part: TablePart, digest: bytes) -> tuple[int, bytes] | None:
    """Return (row index, 64-byte row) of `digest`, or None: interpolation, then bisection, over windows of 4 KiB.

    The rows read are not verified; what they lead to is (its header repeats the row).
    """
    low, high = 0, part.rows
    low_key, high_key = 0, 1 << 64
    key = int.from_bytes(digest[:8], "big")
    guesses = 0
    while low < high:
        guesses += 1
        span = max(1, high_key - low_key)
        # Digests are uniform, so the first guess is near; a table made to mislead is halved instead.
        middle = low + (high - low) * (key - low_key) // span if guesses <= 4 else (low + high) // 2
        first = max(low, min(middle - _WINDOW_ROWS // 2, high - _WINDOW_ROWS))
        window = _read(reader, part, first, min(_WINDOW_ROWS, high - first))
        digests = [window[i : i + DIGEST_BYTES] for i in range(0, len(window), ROW_BYTES)]
        place = bisect.bisect_left(digests, digest)
        if place < len(digests) and digests[place] == digest:
            return first + place, window[place * ROW_BYTES : (place + 1) * ROW_BYTES]
        if place == 0:
            high, high_key = first, int.from_bytes(digests[0][:8], "big")
        elif place == len(digests):
            low, low_key = first + place, int.from_bytes(digests[-1][:8], "big")
        else:
            return None
        if not low_key <= key <= high_key:
            return None
    return None


def merge(parts: Sequence[Iterable[bytes]]) -> Iterator[bytes]:
    """Yield the rows of several sorted parts in one order, each digest once."""
    last = b""
    for row in heapq.merge(*parts):
        if row[:DIGEST_BYTES] != last:
            last = row[:DIGEST_BYTES]
            yield row


def write_part(
    write: Callable[[int, Sequence[bytes]], None], offset: int, rows: Iterable[bytes], most: int
) -> TablePart:
    """Write at most `most` sorted rows as a part at `offset`, in aligned steps."""
    whole = hashlib.sha256()
    count = 0
    place = offset
    step = [_HEADER.pack(_MAGIC, ROW_BYTES, most)]
    for row in rows:
        count += 1
        whole.update(row)
        step.append(row)
        if len(step) == _STEP_ROWS:
            write(place, [b"".join(step)])
            place += _STEP_ROWS * ROW_BYTES
            step = []
    data = b"".join(step)
    write(place, [data.ljust(-(-len(data) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES, b"\0")])
    return TablePart(offset, count, whole.digest())


def _read(reader: Reader, part: TablePart, first: int, count: int) -> bytes:
    buffer = bytearray(count * ROW_BYTES)
    if reader.read_into(part.offset + HEADER_BYTES + first * ROW_BYTES, [buffer]) != len(buffer):
        raise DataCorrupt(f"the table part at {part.offset} is cut off")
    return bytes(buffer)
