"""The storage port in memory: the local directory's twin for tests."""

import threading
from collections.abc import Sequence

from vbrcore.model.errors import AlreadyExists, ChainLocked, NotFound, RepositoryFull, StorageFailed
from vbrcore.storage.names import check_name
from vbrcore.storage.port import SLOT_BYTES, Buffer, Capability


class MemoryAppender:
    """See `port.Appender`."""

    def __init__(self, storage: "MemoryStorage", name: str, content: bytearray) -> None:
        self._storage = storage
        self._name = name
        self._content = content
        self._closed = False

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._check()
        for part in parts:
            self._storage.put(self._content, offset, part)
            offset += len(part)

    def write_slot(self, offset: int, data: Buffer) -> None:
        if len(data) != SLOT_BYTES:
            raise ValueError(f"a slot has {SLOT_BYTES} bytes")
        self.write(offset, [data])

    def sync(self) -> None:
        self._check()

    def close(self) -> None:
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise StorageFailed(f"{self._name}: not written to after its end")


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
    """See `port.Storage`. `files` maps names to contents and may be looked at and spoilt by tests."""

    def __init__(self, capacity_bytes: int = 1 << 40) -> None:
        self.files: dict[str, bytearray] = {}
        self._capacity_bytes = capacity_bytes
        self._locks: set[str] = set()
        self._mutex = threading.RLock()

    def create(self, name: str) -> MemoryAppender:
        with self._mutex:
            if check_name(name) in self.files:
                raise AlreadyExists(name)
            self.files[name] = bytearray()
            return MemoryAppender(self, name, self.files[name])

    def modify(self, name: str) -> MemoryAppender:
        return MemoryAppender(self, name, self._content(name))

    def open_reader(self, name: str) -> MemoryReader:
        return MemoryReader(self._content(name))

    def read(self, name: str, offset: int, length: int) -> bytes:
        return bytes(self._content(name)[offset : offset + length])

    def size(self, name: str) -> int:
        return len(self._content(name))

    def list(self, prefix: str) -> tuple[str, ...]:
        with self._mutex:
            return tuple(sorted(name for name in self.files if name.startswith(prefix)))

    def sync_directory(self, prefix: str) -> None:
        """Names are durable at once."""

    def truncate(self, name: str, size_bytes: int) -> None:
        with self._mutex:
            content = self._content(name)
            del content[size_bytes:]
            content.extend(bytes(size_bytes - len(content)))

    def punch(self, name: str, offset: int, length: int) -> None:
        with self._mutex:
            content = self._content(name)
            end = min(offset + length, len(content))
            content[offset:end] = bytes(max(0, end - offset))

    def clone_range(self, source: str, source_offset: int, target: str, target_offset: int, length: int) -> None:
        self.put(self._content(target), target_offset, self.read(source, source_offset, length))

    def rename(self, name: str, new_name: str) -> None:
        with self._mutex:
            self._content(name)
            self.files[check_name(new_name)] = self.files.pop(name)

    def remove(self, name: str) -> None:
        with self._mutex:
            self._content(name)
            del self.files[name]

    def remove_directory(self, prefix: str) -> None:
        """There are no directories, only names."""

    def lock(self, name: str) -> MemoryLock:
        with self._mutex:
            if check_name(name) in self._locks:
                raise ChainLocked(f"{name} is held by another process")
            self._locks.add(name)
            self.files.setdefault(name, bytearray())
            return MemoryLock(self._locks, name)

    def free_bytes(self) -> int:
        with self._mutex:
            return self._capacity_bytes - sum(map(len, self.files.values()))

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({"punch", "clone"})

    def put(self, content: bytearray, offset: int, data: Buffer) -> None:
        """Write into a file's content, which grows as needed. Raises `RepositoryFull`."""
        with self._mutex:
            end = offset + len(data)
            grown = end - len(content)
            if grown > 0:
                if grown > self.free_bytes():
                    raise RepositoryFull("no space left")
                content.extend(bytes(grown))
            content[offset:end] = data

    def _content(self, name: str) -> bytearray:
        with self._mutex:
            try:
                return self.files[check_name(name)]
            except KeyError as error:
                raise NotFound(name) from error
