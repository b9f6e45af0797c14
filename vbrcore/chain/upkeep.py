"""What keeping a chain in order works with, and the steps that change files of earlier runs."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from vbrcore.backupfile.contents import Damage, TablePart
from vbrcore.backupfile.file import BackupFile
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.tables import merge, read_rows
from vbrcore.chain.index import DedupIndex
from vbrcore.chain.ledger import Ledger
from vbrcore.chain.readers import Readers
from vbrcore.model.point import Point
from vbrcore.storage.port import Reader, Storage

_MERGE_ROWS = 256 * 1024


class Upkeep:
    """The parts of a chain's writer, for the modules that do its larger works. The writer's commit lock is held.

    `index` is that of the current generation. `written_bytes` counts what was appended to files. `pace` is called with
    the length of what is about to be copied, and returns when that may be done.
    """

    def __init__(
        self,
        storage: Storage,
        directory: str,
        *,
        ledger: Ledger,
        index: DedupIndex,
        fence: Callable[[], None],
        index_directory: Path,
        pace: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.storage = storage
        self.directory = directory
        self.ledger = ledger
        self.index = index
        self.readers = Readers(storage)
        self.fence = fence
        self.index_directory = index_directory
        self.pace = pace
        self.file_limit_bytes = 8 * 1024**4
        self.written_bytes = 0

    def check(self) -> None:
        """Before a series of changes: raise when this process was cut off or replaced."""
        self.fence()
        self.ledger.check_not_replaced()

    def rewrite(
        self,
        file: BackupFile,
        points: tuple[Point, ...] | None = None,
        damaged: tuple[Damage, ...] | None = None,
        gone: bytes | None = None,
    ) -> BackupFile:
        """Commit a contents list with these changes to a file of an earlier run, both slots. `check` comes first."""
        writer = FileWriter.modify(self.storage, file, self.fence)
        try:
            contents = self.ledger.rewritten(
                file,
                file.contents.points if points is None else points,
                file.contents.damaged if damaged is None else damaged,
            )
            writer.commit(contents, file.gone if gone is None else gone, both=True)
        finally:
            writer.close()
            self.written_bytes += writer.appended_bytes
        self.ledger.note(writer.file)
        return writer.file

    def unlink(self, files: Iterable[BackupFile], keeper: BackupFile) -> int:
        """Take files off their generation's list, in a list of `keeper`, then remove them; return what they took."""
        files = list(files)
        if not files:
            return 0
        self.check()
        self.ledger.unlist(*files)
        self.rewrite(keeper)
        return self.remove(files)

    def remove(self, files: Iterable[BackupFile]) -> int:
        """Remove files that stand on no list any more; return what they took."""
        freed_bytes = 0
        for file in files:
            freed_bytes += self.storage.allocated_bytes(file.name)
            self.readers.drop(file.name)
            self.fence()
            self.storage.remove(file.name)
            self.ledger.forget_file(file)
        self.storage.sync_directory(f"{self.directory}/")
        return freed_bytes

    def sync(self, name: str) -> None:
        """Make the holes of a file durable."""
        appender = self.storage.modify(name)
        try:
            appender.sync()
        finally:
            appender.close()

    def rename(self, file: BackupFile, name: str) -> None:
        """Durable after the directory's sync, which the caller makes."""
        self.fence()
        self.readers.drop(file.name)
        self.storage.rename(file.name, name)
        self.ledger.note(msgspec.structs.replace(file, name=name))


def sealed_tables(file: FileWriter, reader: Reader, rows: list[bytes]) -> tuple[TablePart, ...]:
    """Write what a file's table is to be when it is sealed: its parts and `rows` (sorted) as one part, or none."""
    tables = file.file.contents.tables
    if rows:
        tables = (*tables, file.write_table(rows, len(rows)))
    if len(tables) > 1:
        step_rows = max(64, min(4096, _MERGE_ROWS // len(tables)))
        merged = merge([read_rows(reader, part, step_rows) for part in tables])
        tables = (file.write_table(merged, sum(part.rows for part in tables)),)
    return tables
