"""The dedup index: digest -> (file, row) of one generation. A cache in LMDB on a local disk, never on the share.

It notes what each file it reflects said when its rows were entered. Whatever is missing, stale or of another chain is
read in again from the files; losing it costs time only. Key: digest (32 bytes). Value: file number (u32, little-endian)
and bytes 32 to 63 of the row.
"""

import contextlib
import hashlib
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

import lmdb
import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES, digest
from vbrcore.backupfile.contents import is_gone
from vbrcore.backupfile.file import BackupFile
from vbrcore.backupfile.tables import read_rows
from vbrcore.model.errors import DataCorrupt, StorageFailed
from vbrcore.storage.port import Storage

_MAP_BYTES: Final = 64 * 1024**3
_NUMBER: Final = struct.Struct("<I")
_OFFSET: Final = struct.Struct("<Q")
# A transaction holds its changed pages in anonymous memory until it commits: 4096 rows dirty at most 4096 leaves.
_ROWS_PER_TRANSACTION: Final = 4096
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Entered(msgspec.Struct, frozen=True):
    """What the index knows of one file: its number here, and the mark of the tables it reflects."""

    number: int
    mark: bytes


def mark_of(file: BackupFile) -> bytes:
    """Return 32 bytes that change whenever the intact rows of a file may have."""
    said = msgspec.msgpack.encode((file.contents.tables, file.contents.damaged, file.gone))
    return hashlib.sha256(said).digest()


class IndexFailed(Exception):
    """The cache could not be written. What the files say still holds."""


def place_of_index(base: Path, chain_id: bytes, directory: str) -> Path:
    """Return where the indexes of a chain's generations stand below `base`.

    By the chain's place too: a copy has its source's id, and both may be in one repository.
    """
    return base / f"{chain_id.hex()}-{digest(directory.encode()).hex()[:16]}"


class DedupIndex:
    """Open index of one generation. `get` is thread-safe; writing is done by one thread at a time."""

    def __init__(self, directory: Path, generation_id: bytes) -> None:
        self._directory = directory / generation_id.hex()
        self._in_use = self._directory / "in-use"
        self._is_broken = False
        self._open()
        self.entered = self._read_entered()
        self._file_ids = {entered.number: file_id for file_id, entered in self.entered.items()}

    def update(self, storage: Storage, files: Sequence[BackupFile]) -> list[str]:
        """Make the index reflect exactly `files`; return a warning per table that could not be read.

        Raises `StorageFailed` where there is no room for it.
        """
        try:
            return self._update(storage, files)
        except lmdb.Error as error:
            raise self._broken(error) from error

    def _update(self, storage: Storage, files: Sequence[BackupFile]) -> list[str]:
        wanted = {file.file_id: mark_of(file) for file in files}
        changed = any(wanted.get(file_id) != entered.mark for file_id, entered in self.entered.items())
        if changed:
            # Rows may have gone, and which other file holds their digests is not known: begin anew.
            self.reset()
        warnings = []
        for file in files:
            if file.file_id not in self.entered:
                warnings += self._enter_file(storage, file)
        return warnings

    def get(self, digests: Iterable[bytes]) -> list[bytes | None]:
        """Return the value per digest, or None. Raises `StorageFailed`; the next opener then begins anew."""
        try:
            with self._env.begin(db=self._rows) as transaction:
                return [transaction.get(digest) for digest in digests]
        except lmdb.Error as error:
            raise self._broken(error) from error

    def find(self, digest: bytes) -> tuple[bytes, bytes] | None:
        """Return (file id, 64-byte row), or None."""
        value = self.get([digest])[0]
        if value is None:
            return None
        return self._file_ids[_NUMBER.unpack_from(value)[0]], digest + value[_NUMBER.size :]

    def number(self, file_id: bytes) -> int:
        """Return the number that stands for a file in values; a new one for a file not entered yet."""
        entered = self.entered.get(file_id)
        if entered is None:
            number = max((known.number for known in self.entered.values()), default=0) + 1
            # With a mark that no file has: if this run ends before `mark`, all is read in again.
            entered = self._note(file_id, Entered(number, b""))
        return entered.number

    def add_committed(self, file: BackupFile, rows: Iterable[bytes]) -> None:
        """Enter rows that a commit of `file` has just made part of it. Raises `IndexFailed`."""
        try:
            self._add(self.number(file.file_id), rows)
            self.mark(file)
        except lmdb.Error as error:
            raise IndexFailed(f"the dedup index in {self._directory} cannot be written: {error}") from error

    def mark(self, file: BackupFile) -> None:
        """Note that all intact rows of `file` as it stands now are in."""
        self._note(file.file_id, Entered(self.number(file.file_id), mark_of(file)))

    def remove(self, file_id: bytes, digests: Iterable[bytes]) -> None:
        """Take out what is in as that file's. Raises `IndexFailed`."""
        prefix = _NUMBER.pack(self.number(file_id))
        names = iter(digests)
        try:
            while chunk := list(islice(names, _ROWS_PER_TRANSACTION)):
                with self._env.begin(db=self._rows, write=True) as transaction:
                    for name in chunk:
                        value = transaction.get(name)
                        if value is not None and value.startswith(prefix):
                            transaction.delete(name)
        except lmdb.Error as error:
            raise IndexFailed(f"the dedup index in {self._directory} cannot be written: {error}") from error

    def drop(self, file_id: bytes) -> None:
        """The file is no more; all that was in as its was taken out or is in as another's. Raises `IndexFailed`."""
        entered = self.entered.pop(file_id, None)
        if entered is None:
            return
        self._file_ids.pop(entered.number, None)
        try:
            with self._env.begin(db=self._files, write=True) as transaction:
                transaction.delete(file_id)
        except lmdb.Error as error:
            raise IndexFailed(f"the dedup index in {self._directory} cannot be written: {error}") from error

    def places(self, digests: Iterable[bytes]) -> list[tuple[bytes, bytes] | None]:
        """Return (file id, the 8 bytes of the offset) per digest, or None."""
        return [
            None
            if value is None
            else (self._file_ids[_NUMBER.unpack_from(value)[0]], value[_NUMBER.size : _NUMBER.size + _OFFSET.size])
            for value in self.get(digests)
        ]

    def reset(self) -> None:
        """Throw everything away."""
        self._close_environment()
        shutil.rmtree(self._directory)
        self._open()
        self.entered = {}
        self._file_ids = {}

    def close(self) -> None:
        """Make it durable and close it. Idempotent."""
        if self._env is not None:
            with contextlib.suppress(lmdb.Error):  # then the file `in-use` stays and the next opener begins anew
                if not self._is_broken:
                    self._env.sync(True)
                    self._in_use.unlink(missing_ok=True)
            self._close_environment()

    def _broken(self, error: lmdb.Error) -> StorageFailed:
        self._is_broken = True
        with contextlib.suppress(OSError):
            self._in_use.write_text("broken")
        return StorageFailed(f"the dedup index in {self._directory} failed: {error}")

    def _open(self) -> None:
        """Open or make the environment.

        It is not synced while in use, so after a crash of the machine (not of this process) it may be anything: the
        file `in-use` says in which boot it was last opened and not closed.
        """
        boot_id = _BOOT_ID.read_text()
        try:
            if self._in_use.exists() and self._in_use.read_text() != boot_id:
                shutil.rmtree(self._directory)
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._in_use.write_text(boot_id)
            try:
                self._open_environment()
            except (lmdb.Error, DataCorrupt):
                shutil.rmtree(self._directory)
                self._directory.mkdir(mode=0o700, parents=True)
                self._in_use.write_text(boot_id)
                self._open_environment()
        except (OSError, lmdb.Error) as error:
            raise StorageFailed(f"the dedup index in {self._directory} cannot be opened: {error}") from error

    def _open_environment(self) -> None:
        self._env: Any = lmdb.open(
            str(self._directory), map_size=_MAP_BYTES, max_dbs=2, sync=False, readahead=False, mode=0o600
        )
        self._rows = self._env.open_db(b"rows")
        self._files = self._env.open_db(b"files")

    def _close_environment(self) -> None:
        self._env.close()
        self._env = None

    def _read_entered(self) -> dict[bytes, Entered]:
        try:
            with self._env.begin(db=self._files) as transaction:
                return {key: msgspec.msgpack.decode(value, type=Entered) for key, value in transaction.cursor()}
        except (lmdb.Error, msgspec.DecodeError):
            self.reset()
            return {}

    def _note(self, file_id: bytes, entered: Entered) -> Entered:
        with self._env.begin(db=self._files, write=True) as transaction:
            transaction.put(file_id, msgspec.msgpack.encode(entered))
        self.entered[file_id] = entered
        self._file_ids[entered.number] = file_id
        return entered

    def _add(self, number: int, rows: Iterable[bytes]) -> None:
        prefix = _NUMBER.pack(number)
        pairs = ((row[:DIGEST_BYTES], prefix + row[DIGEST_BYTES:]) for row in rows)
        while chunk := list(islice(pairs, _ROWS_PER_TRANSACTION)):
            with self._env.begin(db=self._rows, write=True) as transaction:
                transaction.cursor().putmulti(chunk)

    def _enter_file(self, storage: Storage, file: BackupFile) -> list[str]:
        number = self.number(file.file_id)
        reader = storage.open_reader(file.name)
        first_row = 0
        warnings = []
        try:
            for part in file.contents.tables:
                try:
                    # The first pass verifies: no row may enter from a table that turns out to be damaged.
                    for _ in read_rows(reader, part):
                        pass
                except DataCorrupt as error:
                    warnings.append(f"{file.name}: {error}; its blocks are asked for again")
                else:
                    self._add(number, intact_rows(file, read_rows(reader, part), first_row))
                first_row += part.rows
        finally:
            reader.close()
        if not warnings:
            self.mark(file)
        return warnings


def intact_rows(file: BackupFile, rows: Iterable[bytes], first_row: int) -> Iterator[bytes]:
    """Yield those of a part's rows that are neither gone nor known to be damaged."""
    damaged = {(damage.digest, damage.offset) for damage in file.contents.damaged}
    if not file.gone and not damaged:
        yield from rows
        return
    for position, row in enumerate(rows, first_row):
        place = row[:DIGEST_BYTES], _OFFSET.unpack_from(row, DIGEST_BYTES)[0]
        if not is_gone(file.gone, position) and place not in damaged:
            yield row
