"""A storage that records what is done to it, and the states that a crash could leave behind."""

import random
from collections.abc import Sequence

from vbrcore.storage.port import Buffer
from vbrcore.testing.memory_storage import MemoryAppender, MemoryStorage

SECTOR = 512
Operation = tuple[object, ...]


class RecordingAppender(MemoryAppender):
    """Notes each write and sync in its storage's trace."""

    trace: list[Operation]

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self.trace.append(("write", self._name, offset, b"".join(parts)))
        super().write(offset, parts)

    def sync(self) -> None:
        super().sync()
        self.trace.append(("sync", self._name))


class RecordingStorage(MemoryStorage):
    """`trace` may also be given marks by the test: ("acknowledged", ...)."""

    def __init__(self) -> None:
        super().__init__()
        self.trace: list[Operation] = []

    def create(self, name: str) -> RecordingAppender:
        super().create(name).close()
        self.trace.append(("create", name))
        return self.modify(name)

    def modify(self, name: str) -> RecordingAppender:
        appender = RecordingAppender(self, name, self._content(name))
        appender.trace = self.trace
        return appender

    def sync_directory(self, prefix: str) -> None:
        self.trace.append(("sync_directory", prefix))

    def truncate(self, name: str, size_bytes: int) -> None:
        super().truncate(name, size_bytes)
        self.trace.append(("truncate", name, size_bytes))

    def remove(self, name: str) -> None:
        super().remove(name)
        self.trace.append(("remove", name))


class CrashState:
    """Replays a prefix of a trace; what was not synced may be there, be torn, or not."""

    def __init__(self, trace: Sequence[Operation], choice: random.Random | None, *, keep: bool) -> None:
        """`choice` decides per unsynced write and name; None: all of them are kept, or (`keep` false) none."""
        self._choice = choice
        self._keep = keep
        self._durable: dict[str, bytearray] = {}
        self._waiting: dict[str, list[tuple[int, bytes]]] = {}
        self._fresh: set[str] = set()
        for operation in trace:
            self._replay(operation)

    def storage(self) -> MemoryStorage:
        storage = MemoryStorage()
        for name, content in self._durable.items():
            if name in self._fresh and not self._lucky():
                continue
            for offset, data in self._waiting[name]:
                self._apply(content, offset, data)
            storage.files[name] = content
        return storage

    def _replay(self, operation: Operation) -> None:
        match operation:
            case ("create", str(name)):
                self._durable[name] = bytearray()
                self._waiting[name] = []
                self._fresh.add(name)
            case ("write", str(name), int(offset), bytes(data)):
                self._waiting[name].append((offset, data))
            case ("sync", str(name)):
                for offset, data in self._waiting[name]:
                    _put(self._durable[name], offset, data)
                self._waiting[name] = []
            case ("sync_directory", str(prefix)):
                self._fresh -= {name for name in self._fresh if name.startswith(prefix)}
            case ("truncate", str(name), int(size_bytes)):
                del self._durable[name][size_bytes:]
                self._waiting[name] = []
            case ("remove", str(name)):
                del self._durable[name]

    def _lucky(self) -> bool:
        return self._keep if self._choice is None else self._choice.random() < 0.5

    def _apply(self, content: bytearray, offset: int, data: bytes) -> None:
        if self._choice is None:
            if self._keep:
                _put(content, offset, data)
            return
        fate = self._choice.random()
        for start in range(0, len(data), SECTOR):
            if fate < 0.3 or (fate < 0.7 and self._lucky()):
                _put(content, offset + start, data[start : start + SECTOR])


def _put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset + len(data) - len(content))))
    content[offset : offset + len(data)] = data
