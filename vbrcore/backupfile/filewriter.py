"""Writing one backup file: extents, table parts, contents lists, slots, in the order that survives a crash."""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Self

import msgspec

from vbrcore.backupfile.codec import Buffer
from vbrcore.backupfile.contents import Contents, TablePart, encode_contents
from vbrcore.backupfile.file import BackupFile
from vbrcore.backupfile.rows import HEADER_BYTES, ROW_BYTES, Row, pack_header
from vbrcore.backupfile.slots import BODY_OFFSET, FLAG_SEALED, SLOT_OFFSETS, Slot, pack_slot
from vbrcore.backupfile.tables import write_part
from vbrcore.model.errors import CapabilityMissing, FormatInvalid, StorageFailed
from vbrcore.model.foreign import NUMBERS_END
from vbrcore.storage.port import ALIGNMENT_BYTES, Appender, Storage

_PADDING = bytes(ALIGNMENT_BYTES)


class FileWriter:
    """One file open for writing. `write_extent` is thread-safe; the rest is called by one thread at a time.

    `fence` is called before each write and raises when this process was cut off. After an error of a commit nothing
    more is written.
    """

    def __init__(
        self, storage: Storage, appender: Appender, file: BackupFile, fence: Callable[[], None], *, new: bool
    ) -> None:
        self.file = file
        self.end = -(-file.slot.body_end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        self.appended_bytes = 0
        self._storage = storage
        self._appender = appender
        self._fence = fence
        self._new = new
        self._lock = threading.Lock()
        self._failed = False
        self._alignment_bytes = file.slot.alignment_bytes

    @classmethod
    def create(cls, storage: Storage, name: str, slot: Slot, contents: Contents, fence: Callable[[], None]) -> Self:
        """Make a new file; nothing of it is visible before its first commit. Raises `AlreadyExists`."""
        fence()
        return cls(storage, storage.create(name), BackupFile(name, slot, 1, 0, contents), fence, new=True)

    @classmethod
    def modify(cls, storage: Storage, file: BackupFile, fence: Callable[[], None]) -> Self:
        """Open a file of an earlier run for a new contents list."""
        fence()
        return cls(storage, storage.modify(file.name), file, fence, new=False)

    def has_room(self, length: int, limit_bytes: int) -> bool:
        """Say whether an extent of `length` bytes may still go into this file."""
        return self.end == BODY_OFFSET or self.end + length <= limit_bytes

    def write_extent(self, row: Row, stored: Buffer) -> int:
        """Append an extent; return its offset. What a failed write leaves behind is passed over for good."""
        length = HEADER_BYTES + row.stored_length
        offset = self._allocate(length)
        self._fence()
        self._appender.write(offset, [pack_header(row), stored, _PADDING[: -length % ALIGNMENT_BYTES]])
        return offset

    def copy_extents(self, extents: Buffer) -> int:
        """Append whole extents as they stand, padding included, one behind the other in a file of this alignment.

        Returns the offset of the first.
        """
        offset = self._allocate(len(extents))
        self._write(offset, [extents])
        return offset

    def clone_extents(self, source: str, source_offset: int, length: int) -> int:
        """Share whole extents that stand one behind the other in another file; return the new offset of the first.

        Raises `CapabilityMissing`, also where the storage's blocks do not fit; nothing is appended then.
        """
        blocks = self._storage.alignment_bytes
        if (source_offset | length) % blocks or self._alignment_bytes % blocks:
            raise CapabilityMissing(f"{source}: its extents do not begin where blocks of the storage do")
        with self._lock:
            offset = self.end
            self._fence()
            self._appender.clone_range(source, source_offset, offset, length)
            self.end += length
        return offset

    def write_table(self, rows: Iterable[bytes], count: int) -> TablePart:
        """Append a table part of at most `count` rows, sorted by digest."""
        offset = self._allocate(HEADER_BYTES + count * ROW_BYTES)
        return write_part(self._write, offset, rows, count)

    def commit(self, contents: Contents, gone: bytes = b"", *, sealed: bool | None = None, both: bool = False) -> None:
        """Make `contents` what the file says: list, sync, the older slot, sync; with `both` the other slot as well.

        A file's first commit always writes both.

        Raises `StorageFailed` and what the fence raises; the file then stands as it stood, or as committed.
        """
        if self._failed:
            raise StorageFailed(f"{self.file.name}: not written to after an error")
        if self.file.last_sequence + 2 >= NUMBERS_END:
            raise FormatInvalid(f"{self.file.name}: its sequence has come to its end")
        self._failed = True
        data = encode_contents(contents, gone)
        offset = self._allocate(len(data))
        self._write(offset, [data, _PADDING[: -len(data) % ALIGNMENT_BYTES]])
        self._appender.sync()
        if self._new:
            self._storage.sync_directory(self.file.name.rpartition("/")[0] + "/")
            self._new = False
            both = True  # so that a file of which only a torn slot is left is known never to have been committed
        flags = self.file.slot.flags
        if sealed is not None:
            flags = flags | FLAG_SEALED if sealed else flags & ~FLAG_SEALED
        slot = msgspec.structs.replace(
            self.file.slot,
            flags=flags,
            body_end=self.end,
            contents_offset=offset,
            contents_length=len(data),
            contents_sha256=hashlib.sha256(data).digest(),
            run_number=contents.run_number,
        )
        for _ in range(2 if both else 1):
            self._write_older_slot(slot, contents, gone)
        self._failed = False

    def close(self) -> None:
        self._appender.close()

    def _write_older_slot(self, slot: Slot, contents: Contents, gone: bytes) -> None:
        place, sequence = 1 - self.file.place, self.file.last_sequence + 1
        slot = msgspec.structs.replace(slot, sequence=sequence)
        self._fence()
        self._appender.write_slot(SLOT_OFFSETS[place], pack_slot(slot))
        self._appender.sync()
        self.file = BackupFile(self.file.name, slot, place, sequence, contents, gone)

    def _allocate(self, length: int) -> int:
        with self._lock:
            offset = self.end
            self.end += -(-length // self._alignment_bytes) * self._alignment_bytes
            self.appended_bytes += self.end - offset
        return offset

    def _write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._fence()
        self._appender.write(offset, parts)


def new_slot(
    file_id: bytes,
    chain_id: bytes,
    generation_id: bytes,
    block_size_bytes: int,
    flags: int,
    *,
    features: int = 0,
    alignment_bytes: int = ALIGNMENT_BYTES,
) -> Slot:
    """Return the slot of a file that has nothing yet; it is never written as it is."""
    return Slot(
        sequence=0,
        flags=flags,
        block_size_bytes=block_size_bytes,
        file_id=file_id,
        chain_id=chain_id,
        generation_id=generation_id,
        body_end=BODY_OFFSET,
        contents_offset=BODY_OFFSET,
        contents_length=0,
        contents_sha256=bytes(32),
        run_number=0,
        features=features,
        alignment_bytes=alignment_bytes,
    )
