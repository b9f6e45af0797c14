"""Transplant: extents and points of files go into a new file of the current generation, as they are stored."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.file import BackupFile, check_stored, locate, read_stored
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.rows import HEADER_BYTES, Row, pack_row
from vbrcore.chain.files import FileKind
from vbrcore.chain.index import DedupIndex
from vbrcore.chain.sweep import extent_bytes, offset_of
from vbrcore.chain.upkeep import Upkeep, sealed_tables
from vbrcore.model.errors import CapabilityMissing, DataCorrupt
from vbrcore.model.point import Point

# So many rows are committed at a time: what was moved up to then is not moved again after a kill.
STEP_ROWS: Final = 64 * 1024
# So many are sorted by place at a time (about 110 bytes each): neighbours are shared by one call, copied by one read.
_SORTED_ROWS: Final = 256 * 1024
_MOST_SHARED_BYTES: Final = 256 * 1024 * 1024
_MOST_COPIED_BYTES: Final = 1024 * 1024


class Transplant:
    """Moves extents; `index` (of the current generation) says where they are as soon as they are committed.

    `finish`, `abandon` or `close` comes last. `clone`: ranges are shared where the storage can; else the stored bytes
    are copied, verified by their checksum and never compressed anew.
    """

    def __init__(self, upkeep: Upkeep, index: DedupIndex, kind: FileKind, *, clone: bool) -> None:
        self._upkeep = upkeep
        self._index = index
        self._kind: FileKind = kind
        self._clone = clone
        self._file: FileWriter | None = None
        self._rows: dict[bytes, bytes] = {}
        self._buffer = bytearray(_MOST_COPIED_BYTES)
        self.files: list[bytes] = []  # ids
        self.moved_bytes = 0
        self.clone_calls = 0

    def move(self, source: BackupFile, rows: Iterable[bytes]) -> None:
        """Take the extents of these rows over from `source`. Raises `DataCorrupt`; what was committed before stays.

        They are read in the order in which they stand there, as far as memory allows.
        """
        rows = iter(rows)
        while step := sorted(islice(rows, _SORTED_ROWS), key=offset_of):
            for run in _neighbours(step, source, _MOST_SHARED_BYTES if self._clone else _MOST_COPIED_BYTES):
                self._move_run(source, run)
                self._commit_if_due()

    def move_in_order(self, located: Iterable[tuple[BackupFile, bytes]]) -> None:
        """Copy extents of several files one by one, in the order given."""
        clone, self._clone = self._clone, False
        for source, row in located:
            self._move_run(source, [row])
            self._commit_if_due()
        self._clone = clone

    def __contains__(self, digest: bytes) -> bool:
        """It was moved and is not in the index yet."""
        return digest in self._rows

    def finish(self, points: tuple[Point, ...]) -> None:
        """Seal the new file, with these points."""
        if self._file is None and not points:
            return
        self._seal(self._open_file(0), points)

    def abandon(self) -> None:
        """Give up what is not committed."""
        file = self._file
        if file is None:
            return
        self.close()
        if file.file.last_sequence == 0:
            self._upkeep.storage.remove(file.file.name)
            self._upkeep.ledger.unlist(file.file)

    def close(self) -> None:
        """Let go of the new file as it stands. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _move_run(self, source: BackupFile, run: Sequence[bytes]) -> None:
        """Move extents that stand one behind the other. Raises `FormatInvalid` for rows that cannot be true."""
        located = [locate(source, packed) for packed in run]
        start = offset_of(run[0])
        length = offset_of(run[-1]) + extent_bytes(run[-1], source) - start
        file = self._open_file(length)
        if self._clone:
            try:
                offset = file.clone_extents(source.name, start, length)
            except CapabilityMissing:
                self._clone = False
            else:
                self.clone_calls += 1
                self._note_run(run, offset - start)
                return
        self._upkeep.pace(length)
        if length <= _MOST_COPIED_BYTES and source.slot.alignment_bytes == file.file.slot.alignment_bytes:
            self._note_run(run, self._copy_run(source, located, (start, length), file) - start)
            return
        for row, place in located:
            stored = bytearray(row.stored_length)
            read_stored(self._upkeep.readers.get(source.name), place, row, stored)
            self._rows[row.digest] = pack_row(row, file.write_extent(row, stored))
            self.moved_bytes += HEADER_BYTES + row.stored_length

    def _copy_run(
        self, source: BackupFile, located: Sequence[tuple[Row, int]], span: tuple[int, int], file: FileWriter
    ) -> int:
        """Copy the extents of a span by one read and one write, each verified in between; return where they begin."""
        start, length = span
        extents = memoryview(self._buffer)[:length]
        if self._upkeep.readers.get(source.name).read_into(start, [extents]) != length:
            raise DataCorrupt(f"{source.name}: the extents at {start} are cut off")
        for row, place in located:
            header, end = place - start, place - start + HEADER_BYTES + row.stored_length
            check_stored(extents[header : header + HEADER_BYTES], extents[header + HEADER_BYTES : end], row)
            self.moved_bytes += HEADER_BYTES + row.stored_length
        return file.copy_extents(extents)

    def _note_run(self, run: Sequence[bytes], shift: int) -> None:
        for packed in run:
            self._rows[packed[:DIGEST_BYTES]] = _placed(packed, offset_of(packed) + shift)

    def _open_file(self, length: int) -> FileWriter:
        if self._file is not None and not self._file.has_room(length, self._upkeep.file_limit_bytes):
            self._seal(self._file, ())
        if self._file is None:
            self._file = self._upkeep.ledger.new_file(self._kind)
            self.files.append(self._file.file.file_id)
        return self._file

    def _commit_if_due(self) -> None:
        file = self._file
        if file is None or len(self._rows) < STEP_ROWS:
            return
        self._upkeep.check()
        rows = sorted(self._rows.values())
        tables = (*file.file.contents.tables, file.write_table(rows, len(rows)))
        file.commit(self._upkeep.ledger.contents((), tables))
        self._settle(file, rows)

    def _seal(self, file: FileWriter, points: tuple[Point, ...]) -> None:
        self._upkeep.check()
        rows = sorted(self._rows.values())
        tables = sealed_tables(file, self._upkeep.readers.get(file.file.name), rows)
        file.commit(self._upkeep.ledger.contents(points, tables), sealed=True, both=True)
        self._settle(file, rows)
        file.close()
        self._upkeep.written_bytes += file.appended_bytes
        self._file = None

    def _settle(self, file: FileWriter, rows: list[bytes]) -> None:
        self._upkeep.ledger.note(file.file)
        self._index.add_committed(file.file, rows)
        self._rows = {}


def _neighbours(rows: Sequence[bytes], file: BackupFile, most_bytes: int) -> Iterator[list[bytes]]:
    """Yield runs of rows, sorted by offset, whose extents stand one behind the other: one, or `most_bytes` at most."""
    run: list[bytes] = []
    end = start = 0
    for row in rows:
        offset = offset_of(row)
        after = offset + extent_bytes(row, file)
        if run and (offset != end or after - start > most_bytes):
            yield run
            run = []
        if not run:
            start = offset
        run.append(row)
        end = after
    if run:
        yield run


def _placed(row: bytes, offset: int) -> bytes:
    return row[:DIGEST_BYTES] + offset.to_bytes(8, "little") + row[DIGEST_BYTES + 8 :]
