"""A storage that records what is done to it, and the states that a crash could leave behind.

Operations of a trace, as tuples:

    ("create", name)                        its name lasts once its directory is synced
    ("write", name, offset, data)           until the file's sync: kept, lost, or torn at 512 bytes
    ("clone", name, offset, data, source, source_offset)     until the file's sync: kept, lost, or kept in part
    ("punch", name, offset, length)         until the file's sync: kept, lost, or kept in part
    ("truncate", name, size_bytes)          until the file's sync: kept or lost
    ("sync", name)
    ("rename", name, new_name)              until the directory is synced: kept or lost, as a whole
    ("remove", name)                        until the directory is synced: kept or lost
    ("sync_directory", prefix)              the names in this directory, not those below it

Each is decided by itself, whatever became of those before it: that is reordering. A test may add marks of its own
between them, e.g. ("acknowledged", point_id); replaying passes over them. `RecordingStorage.moved_bytes` and
`clone_calls` count what a transplant costs.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from vbrcore.storage.capabilities import StorageClass
from vbrcore.storage.port import ALIGNMENT_BYTES, Buffer, whole_blocks
from vbrcore.testing.memory_storage import MemoryAppender, MemoryFile, MemoryStorage

SECTOR = 512
Operation = tuple[object, ...]
Way = Literal["all lost", "all kept", "random"]


class RecordingAppender(MemoryAppender):
    """Notes each write, clone and sync in its storage's trace, under the name that the file has then."""

    def __init__(self, storage: "RecordingStorage", file: MemoryFile) -> None:
        super().__init__(storage, file)
        self._trace = storage.trace

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._trace.append(("write", self._file.name, offset, b"".join(parts)))
        super().write(offset, parts)

    def clone_range(self, source: str, source_offset: int, offset: int, length: int) -> None:
        super().clone_range(source, source_offset, offset, length)
        data = bytes(self._file[offset : offset + length])
        self._trace.append(("clone", self._file.name, offset, data, source, source_offset))

    def sync(self) -> None:
        super().sync()
        self._trace.append(("sync", self._file.name))


class RecordingStorage(MemoryStorage):
    """See the module. Locks are not recorded: none outlives a crash. `begin`: files that are there already."""

    def __init__(
        self,
        capacity_bytes: int = 1 << 40,
        *,
        storage_class: StorageClass = "clone",
        alignment_bytes: int = ALIGNMENT_BYTES,
        begin: Mapping[str, bytes | bytearray] | None = None,
    ) -> None:
        super().__init__(capacity_bytes, storage_class=storage_class, alignment_bytes=alignment_bytes)
        self.begin: Final = dict(begin or {})
        self.files.update({name: bytearray(content) for name, content in self.begin.items()})
        self.trace: list[Operation] = []

    @property
    def moved_bytes(self) -> int:
        """The bytes of all writes up to now."""
        return sum(len(data) for kind, *_, data in self.trace if kind == "write" and isinstance(data, bytes))

    @property
    def clone_calls(self) -> int:
        return sum(operation[0] == "clone" for operation in self.trace)

    def create(self, name: str) -> RecordingAppender:
        super().create(name).close()
        self.trace.append(("create", name))
        return self.modify(name)

    def modify(self, name: str) -> RecordingAppender:
        return RecordingAppender(self, self.file(name))

    def sync_directory(self, prefix: str) -> None:
        self.trace.append(("sync_directory", prefix))

    def truncate(self, name: str, size_bytes: int) -> None:
        super().truncate(name, size_bytes)
        self.trace.append(("truncate", name, size_bytes))

    def punch(self, name: str, offset: int, length: int) -> None:
        super().punch(name, offset, length)
        start, length = whole_blocks(offset, length, self.alignment_bytes)
        if length:
            self.trace.append(("punch", name, start, length))

    def rename(self, name: str, new_name: str) -> None:
        super().rename(name, new_name)
        self.trace.append(("rename", name, new_name))

    def remove(self, name: str) -> None:
        super().remove(name)
        self.trace.append(("remove", name))


class Change(NamedTuple):
    """What an operation does to a file's content: bytes at an offset, or (data None) zeros of `length`, or a new end.

    A crash keeps whole pieces of `piece` bytes.
    """

    offset: int
    data: bytes | None
    length: int
    piece: int
    punches: bool = False

    def apply(self, content: bytearray, start: int, end: int) -> None:
        """Do the part from `start` to `end`, counted from the change's offset."""
        if self.data is None and not self.punches:
            del content[self.offset :]
            content.extend(bytes(self.offset - len(content)))
            return
        first, last = self.offset + start, self.offset + end
        if self.data is None:
            last = min(last, len(content))
            content[first:last] = bytes(max(0, last - first))
            return
        content.extend(bytes(max(0, last - len(content))))
        content[first:last] = memoryview(self.data)[start:end]


class Inode:
    """A file on the disk: what is durable, and what waits for its sync."""

    def __init__(self, content: bytes | bytearray = b"") -> None:
        self.durable = bytearray(content)
        self.waiting: list[Change] = []

    def sync(self) -> None:
        for change in self.waiting:
            change.apply(self.durable, 0, change.length)
        self.waiting = []


class NameChange(NamedTuple):
    """Names that go and come together, and the directories whose sync makes that durable."""

    gone: str | None
    come: str | None
    inode: Inode
    unsynced: set[str]

    def apply(self, names: dict[str, Inode]) -> None:
        if self.gone is not None and names.get(self.gone) is self.inode:
            del names[self.gone]
        if self.come is not None:
            names[self.come] = self.inode


class Disk:
    """What a disk may hold after the operations fed so far. States can be taken after each of them."""

    def __init__(
        self,
        storage_class: StorageClass = "clone",
        alignment_bytes: int = ALIGNMENT_BYTES,
        *,
        begin: Mapping[str, bytes | bytearray] | None = None,
    ) -> None:
        self._storage_class: Final[StorageClass] = storage_class
        self._alignment_bytes = alignment_bytes
        self._durable = {name: Inode(content) for name, content in (begin or {}).items()}
        self._current = dict(self._durable)
        self._waiting: list[NameChange] = []

    def feed(self, operation: Operation) -> None:
        match operation:
            case ("create", str(name)):
                self._name(NameChange(None, name, Inode(), {_directory(name)}))
            case ("rename", str(name), str(new_name)):
                directories = {_directory(name), _directory(new_name)}
                self._name(NameChange(name, new_name, self._current[name], directories))
            case ("remove", str(name)) if name in self._current:  # a lock's file was never there
                self._name(NameChange(name, None, self._current[name], {_directory(name)}))
            case ("sync_directory", str(prefix)):
                self._sync_directory(prefix.rstrip("/"))
            case ("sync", str(name)):
                if name in self._current:
                    self._current[name].sync()
            case ("write" | "clone" | "punch" | "truncate", str(name), *_) if name in self._current:
                self._current[name].waiting.append(self._change(operation))

    def state(self, way: Way, choice: random.Random | None = None) -> MemoryStorage:
        """Return a storage as a crash now could leave it; `choice` decides where the way is "random"."""
        fate = Fate(way, choice)
        storage = MemoryStorage(storage_class=self._storage_class, alignment_bytes=self._alignment_bytes)
        names = dict(self._durable)
        for change in self._waiting:
            if fate.keeps():
                change.apply(names)
        for name, inode in names.items():
            content = storage.files[name] = bytearray(inode.durable)
            for waiting in inode.waiting:
                for start, end in fate.parts(waiting):
                    waiting.apply(content, start, end)
        return storage

    def _change(self, operation: Operation) -> Change:
        match operation:
            case ("write", _, int(offset), bytes(data)):
                return Change(offset, data, len(data), SECTOR)
            case ("clone", _, int(offset), bytes(data), *_):
                return Change(offset, data, len(data), self._alignment_bytes)
            case ("punch", _, int(offset), int(length)):
                return Change(offset, None, length, self._alignment_bytes, punches=True)
            case ("truncate", _, int(size_bytes)):
                return Change(size_bytes, None, 1, 1)
        raise ValueError(f"no operation of a trace: {operation[:2]}")

    def _name(self, change: NameChange) -> None:
        change.apply(self._current)
        self._waiting.append(change)

    def _sync_directory(self, directory: str) -> None:
        for change in self._waiting:
            change.unsynced.discard(directory)
            if not change.unsynced:
                change.apply(self._durable)
        self._waiting = [change for change in self._waiting if change.unsynced]


class Fate:
    """Decides what of the unsynced survives."""

    def __init__(self, way: Way, choice: random.Random | None) -> None:
        self._way = way
        self._choice = choice or random.Random(0)  # noqa: S311

    def keeps(self) -> bool:
        if self._way == "random":
            return self._choice.random() < 0.5
        return self._way == "all kept"

    def parts(self, change: Change) -> Iterator[tuple[int, int]]:
        """Yield the parts of a change that reached the disk: three in ten all, four in ten some, three in ten none."""
        if self._way != "random":
            if self._way == "all kept":
                yield 0, change.length
            return
        fate = self._choice.random()
        if fate < 0.3 or (fate < 0.7 and change.length <= change.piece and self.keeps()):
            yield 0, change.length
        elif fate < 0.7:
            for start in range(0, change.length, change.piece):
                if self.keeps():
                    yield start, min(start + change.piece, change.length)


def crash_states(
    trace: Sequence[Operation],
    random_states: int,
    *,
    storage_class: StorageClass = "clone",
    begin: Mapping[str, bytes | bytearray] | None = None,
    seed: int = 0,
) -> Iterator[tuple[int, str, MemoryStorage]]:
    """Yield for each prefix of a trace (its length, a name for the state, the storage): 2 + `random_states` each.

    `begin`: what the disk held before. The same seed gives the same states, so one that failed is found again by its
    length and name.
    """
    disk = Disk(storage_class, begin=begin)
    for length in range(len(trace) + 1):
        if length:
            disk.feed(trace[length - 1])
        yield length, "all lost", disk.state("all lost")
        yield length, "all kept", disk.state("all kept")
        for number in range(random_states):
            choice = random.Random(f"{seed} {length} {number}")  # noqa: S311
            yield length, f"random {number}", disk.state("random", choice)


def _directory(name: str) -> str:
    """Return the directory of a file as `sync_directory` names it, without the last '/'; "" is the root."""
    return name.rpartition("/")[0]
