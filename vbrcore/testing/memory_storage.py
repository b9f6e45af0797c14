"""The storage port in memory: the local directory's twin for tests."""

import threading
from collections.abc import Sequence
from typing import Final

from vbrcore.model.errors import AlreadyExists, CapabilityMissing, ChainLocked, NotFound, RepositoryFull, StorageFailed
from vbrcore.storage.capabilities import StorageClass
from vbrcore.storage.names import check_name
from vbrcore.storage.port import ALIGNMENT_BYTES, SLOT_BYTES, Buffer, check_aligned, whole_blocks


class Block:
    """One allocated block of the storage, with the number of places that share it."""

    __slots__ = ("users",)

    def __init__(self) -> None:
        self.users = 1


class MemoryFile(bytearray):
    """A file's content and the blocks that it takes, by their index. Absent blocks are holes."""

    def __init__(self, name: str, content: bytes | bytearray = b"") -> None:
        super().__init__(content)
        self.name = name
        self.blocks: dict[int, Block] = {}


class MemoryAppender:
    """See `port.Appender`."""

    def __init__(self, storage: "MemoryStorage", file: MemoryFile) -> None:
        self._storage = storage
        self._file = file
        self._closed = False

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._check()
        for part in parts:
            self._storage.put(self._file, offset, part)
            offset += len(part)

    def write_slot(self, offset: int, data: Buffer) -> None:
        if len(data) != SLOT_BYTES:
            raise ValueError(f"a slot has {SLOT_BYTES} bytes")
        self.write(offset, [data])

    def clone_range(self, source: str, source_offset: int, offset: int, length: int) -> None:
        check_aligned(self._storage.alignment_bytes, source_offset, offset, length)
        self._check()
        self._storage.share(source, source_offset, self._file, offset, length)

    def sync(self) -> None:
        self._check()

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise StorageFailed(f"{self._file.name}: not written to after its end")


class MemoryReader:
    """See `port.Reader`."""

    def __init__(self, content: bytearray) -> None:
        self._content = content

    @property
    def size_bytes(self) -> int:
        return len(self._content)

    def read_into(self, offset: int, parts: Sequence[bytearray | memoryview]) -> int:
        done = 0
        for part in parts:
            data = bytes(self._content[offset + done : offset + done + len(part)])
            part[: len(data)] = data
            done += len(data)
        return done

    def close(self) -> None:
        """Nothing to give back."""


class MemoryLock:
    """See `port.Lock`."""

    def __init__(self, held: set[str], name: str) -> None:
        self._held = held
        self._name = name

    def release(self) -> None:
        self._held.discard(self._name)


class MemoryStorage:
    """See `port.Storage`. `files` maps names to contents and may be looked at, spoilt and added to by tests.

    A file that a test put in takes space where it is not zero.
    """

    def __init__(
        self,
        capacity_bytes: int = 1 << 40,
        *,
        storage_class: StorageClass = "clone",
        alignment_bytes: int = ALIGNMENT_BYTES,
    ) -> None:
        self.files: dict[str, bytearray] = {}
        self.alignment_bytes: Final = alignment_bytes
        self.storage_class: Final = storage_class
        self._capacity_bytes = capacity_bytes
        self._used_blocks = 0
        self._locks: set[str] = set()
        self._mutex = threading.RLock()

    def create(self, name: str) -> MemoryAppender:
        with self._mutex:
            if check_name(name) in self.files:
                raise AlreadyExists(name)
            file = self.files[name] = MemoryFile(name)
            return MemoryAppender(self, file)

    def modify(self, name: str) -> MemoryAppender:
        return MemoryAppender(self, self.file(name))

    def open_reader(self, name: str) -> MemoryReader:
        return MemoryReader(self.file(name))

    def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self.file(name)[offset : offset + length])

    def size(self, name: str) -> int:
        return len(self.file(name))

    def allocated_bytes(self, name: str) -> int:
        return len(self.file(name).blocks) * self.alignment_bytes

    def list(self, prefix: str) -> tuple[str, ...]:
        with self._mutex:
            return tuple(sorted(name for name in self.files if name.startswith(prefix)))

    def sync_directory(self, prefix: str) -> None:
        """Names are durable at once."""

    def truncate(self, name: str, size_bytes: int) -> None:
        with self._mutex:
            file = self.file(name)
            self._free(file, -(-size_bytes // self.alignment_bytes), len(file))
            del file[size_bytes:]
            file.extend(bytes(size_bytes - len(file)))

    def punch(self, name: str, offset: int, length: int) -> None:
        start, length = whole_blocks(offset, length, self.alignment_bytes)
        with self._mutex:
            file = self.file(name)
            if self.storage_class == "copy":
                raise CapabilityMissing(f"{name}: this storage cannot punch")
            end = min(start + length, len(file))
            if start < end:
                file[start:end] = bytes(end - start)
                self._free(file, start // self.alignment_bytes, end)

    def rename(self, name: str, new_name: str) -> None:
        with self._mutex:
            file = self.file(name)
            if check_name(new_name) in self.files:
                raise AlreadyExists(new_name)
            self.files[new_name] = self.files.pop(name)
            file.name = new_name

    def remove(self, name: str) -> None:
        with self._mutex:
            file = self.file(name)
            self._free(file, 0, len(file))
            del self.files[name]

    def remove_directory(self, prefix: str) -> None:
        """There are no directories, only names."""

    def lock(self, name: str) -> MemoryLock:
        with self._mutex:
            if check_name(name) in self._locks:
                raise ChainLocked(f"{name} is held by another process")
            self._locks.add(name)
            self.files.setdefault(name, MemoryFile(name))
            return MemoryLock(self._locks, name)

    def free_bytes(self) -> int:
        """Return the capacity less all blocks, shared ones once."""
        return self._capacity_bytes - self._used_blocks * self.alignment_bytes

    def capacity_bytes(self) -> int:
        return self._capacity_bytes

    def file(self, name: str) -> MemoryFile:
        """Return a file with its blocks. Raises `NotFound`."""
        with self._mutex:
            try:
                content = self.files[check_name(name)]
            except KeyError as error:
                raise NotFound(name) from error
            if not isinstance(content, MemoryFile):
                content = self.files[name] = self._adopt(name, content)
            return content

    def put(self, file: MemoryFile, offset: int, data: Buffer) -> None:
        """Write into a file, which grows as needed; shared blocks become its own. Raises `RepositoryFull`."""
        if not len(data):
            return
        end = offset + len(data)
        with self._mutex:
            indices = range(offset // self.alignment_bytes, -(-end // self.alignment_bytes))
            fresh = [index for index in indices if (block := file.blocks.get(index)) is None or block.users > 1]
            if len(fresh) * self.alignment_bytes > self.free_bytes():
                raise RepositoryFull("no space left")
            for index in fresh:
                self._take(file, index, Block())
            self._used_blocks += len(fresh)
            file.extend(bytes(max(0, end - len(file))))
            file[offset:end] = data

    def share(self, source: str, source_offset: int, file: MemoryFile, offset: int, length: int) -> None:
        """Do `port.Appender.clone_range`."""
        with self._mutex:
            origin = self.file(source)
            if self.storage_class != "clone":
                raise CapabilityMissing(f"{source}: this storage cannot clone")
            if len(origin) < source_offset + length:
                raise StorageFailed(f"{source}: ends before the range to be shared")
            file.extend(bytes(max(0, offset + length - len(file))))
            file[offset : offset + length] = origin[source_offset : source_offset + length]
            first, distance = offset // self.alignment_bytes, (offset - source_offset) // self.alignment_bytes
            for index in range(first, first + length // self.alignment_bytes):
                block = origin.blocks.get(index - distance)
                if block is not None:
                    block.users += 1
                self._take(file, index, block)

    def _take(self, file: MemoryFile, index: int, block: Block | None) -> None:
        """Put a block in its place, or a hole; what was there is given up."""
        old = file.blocks.pop(index, None)
        if old is not None:
            old.users -= 1
            self._used_blocks -= not old.users
        if block is not None:
            file.blocks[index] = block

    def _free(self, file: MemoryFile, first: int, end: int) -> None:
        """Make holes of the blocks from index `first` to byte `end`."""
        for index in range(first, -(-end // self.alignment_bytes)):
            self._take(file, index, None)

    def _adopt(self, name: str, content: bytearray) -> MemoryFile:
        file = MemoryFile(name, content)
        zeros = bytes(self.alignment_bytes)
        for offset in range(0, len(file), self.alignment_bytes):
            data = file[offset : offset + self.alignment_bytes]
            if data != zeros[: len(data)]:
                file.blocks[offset // self.alignment_bytes] = Block()
        self._used_blocks += len(file.blocks)
        return file
