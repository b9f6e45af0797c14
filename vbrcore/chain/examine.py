"""Examining what a chain stores: each extent is read once, however many points share it.

`extents` says what there is, `check` reads one of them (from several threads), and `confirmed` looks once more at what
was bad: the chain's writer may have moved it, given it back or named it as damaged meanwhile.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

import msgspec

from vbrcore.backupfile.contents import TablePart, is_gone
from vbrcore.backupfile.file import BackupFile, content_of, read_slots, read_stored
from vbrcore.backupfile.rows import KIND_PAGE, Row, unpack_row
from vbrcore.backupfile.slots import Slot
from vbrcore.backupfile.tables import read_rows, search
from vbrcore.chain.diagnosis import BadTable
from vbrcore.chain.index import intact_rows
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import DataCorrupt, FormatInvalid, FormatNewer, KeyNeeded, NotFound, StorageFailed
from vbrcore.storage.port import Reader, Storage

# So many rows at a time are read in the order of the file; a row takes 64 bytes.
_WINDOW_ROWS: Final = 256 * 1024
_UNTRUE: Final = (DataCorrupt, FormatInvalid, FormatNewer)


class Extent(msgspec.Struct, frozen=True, gc=False):
    """One that a file's tables name as intact; `offset` is that of its header."""

    file_id: bytes
    name: str
    offset: int
    row: Row


class Examination:
    """What stands in the files of a chain. `wanted`: only extents with such digests (it may say yes too often)."""

    def __init__(
        self, storage: Storage, reader: ChainReader, *, deep: bool, wanted: Callable[[bytes], bool] | None = None
    ) -> None:
        self.bad_tables: list[BadTable] = []
        self._storage = storage
        self._reader = reader
        self._deep = deep
        self._wanted = wanted
        self._files = reader.files.files

    @property
    def size_bytes(self) -> int:
        """An upper bound of what is to be read."""
        return sum(file.slot.body_end for file in self._files)

    def extents(self) -> Iterator[Extent]:
        """Yield all intact rows, file by file, window by window in the order of the file; note tables that are bad."""
        for listed in self._files:
            file = self._where_it_is(listed)
            first_row = 0
            for part in file.contents.tables:
                problem = self._problem_of(file, part)
                if problem:
                    self.bad_tables.append(BadTable(file.file_id, file.name, problem))
                else:
                    yield from self._extents_of(file, part, first_row)
                first_row += part.rows

    def _where_it_is(self, file: BackupFile) -> BackupFile:
        """Return a file as it stands now, where the chain's writer has renamed it; else as it was."""
        try:
            self._reader.stream(file.name)
        except NotFound:
            self._reader.look_again()
            return next((now for now in self._reader.files.files if now.file_id == file.file_id), file)
        return file

    def check(self, extent: Extent, buffer: bytearray) -> int:
        """Read one extent and verify its checksum, with `deep` its digest; return the bytes read.

        `buffer` grows as needed. Raises `DataCorrupt`; `StorageFailed` where more than this extent cannot be read.
        """
        row = extent.row
        if len(buffer) < row.stored_length:
            buffer.extend(bytes(row.stored_length - len(buffer)))
        stored = memoryview(buffer)[: row.stored_length]
        try:
            read_stored(self._reader.stream(extent.name), extent.offset, row, stored)
        except NotFound as error:
            raise DataCorrupt(str(error)) from error
        except StorageFailed as error:
            if not any(isinstance(slot, Slot) for slot in read_slots(self._storage, extent.name)):
                raise
            raise DataCorrupt(f"{extent.name} at {extent.offset}: {error}") from error
        finally:
            stored.release()
        if self._deep:
            self._check_content(row, bytes(memoryview(buffer)[: row.stored_length]))
        return row.stored_length

    def confirmed(self, suspects: list[Extent]) -> list[Extent]:
        """Return those that are still named as intact by their files, and still bad; so with `bad_tables`."""
        if not suspects and not self.bad_tables:
            return []
        self._reader.look_again()
        files = {file.file_id: file for file in self._reader.files.files}
        self.bad_tables = [bad for bad in self.bad_tables if bad.file_id in files and self._is_bad(files[bad.file_id])]
        found = []
        buffer = bytearray()
        for suspect in suspects:
            file = files.get(suspect.file_id)
            if file is None or not self._names(file, suspect):
                continue
            extent = msgspec.structs.replace(suspect, name=file.name)
            try:
                self.check(extent, buffer)
            except DataCorrupt:
                found.append(extent)
        return found

    def _problem_of(self, file: BackupFile, part: TablePart) -> str:
        """Return what is wrong with a table part: no row of it counts unless all are as the list says."""
        try:
            for packed in read_rows(self._reader.stream(file.name), part):
                unpack_row(packed)
        except (*_UNTRUE, NotFound) as error:
            return str(error)
        return ""

    def _is_bad(self, file: BackupFile) -> bool:
        return any(self._problem_of(file, part) for part in file.contents.tables)

    def _extents_of(self, file: BackupFile, part: TablePart, first_row: int) -> Iterator[Extent]:
        rows = intact_rows(file, read_rows(self._reader.stream(file.name), part), first_row)
        while window := list(islice(rows, _WINDOW_ROWS)):
            placed = sorted((unpack_row(packed) for packed in window), key=lambda pair: pair[1])
            for row, offset in placed:
                if self._wanted is None or self._wanted(row.digest):
                    yield Extent(file.file_id, file.name, offset, row)

    def _names(self, file: BackupFile, extent: Extent) -> bool:
        """Say whether a file's list still has an extent at its place, neither gone nor known to be damaged."""
        if any((one.digest, one.offset) == (extent.row.digest, extent.offset) for one in file.contents.damaged):
            return False
        return has_row(file, self._reader.stream(file.name), extent.row.digest, extent.offset)

    def _check_content(self, row: Row, stored: bytes) -> None:
        opener = self._reader.opener
        try:
            if opener is not None and row.kind != KIND_PAGE:
                opener.content(row, stored)
            else:
                content_of(row, stored)
        except KeyNeeded as error:
            raise DataCorrupt(f"an encrypted extent in a chain that is not: {error}") from error


def has_row(file: BackupFile, reader: Reader, digest: bytes, offset: int) -> bool:
    """Say whether a file has a row of this digest and place that is not gone."""
    first_row = 0
    for part in file.contents.tables:
        try:
            hit = search(reader, part, digest)
            if hit is not None and unpack_row(hit[1])[1] == offset:
                return not is_gone(file.gone, first_row + hit[0])
        except _UNTRUE:  # of a table that is damaged itself
            pass
        first_row += part.rows
    return False
