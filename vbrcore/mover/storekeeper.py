"""The storage mover: answers questions about one place, for whoever is not where the place can be opened."""

import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from vbrcore.model.errors import ErrorInfo, InvalidValue, ProtocolError, info_of
from vbrcore.mover import questions as ask
from vbrcore.mover.control import Control
from vbrcore.mover.messages import Answer, Asked, Ended, KeepWork, Kept, Stop
from vbrcore.mover.workers import stopped
from vbrcore.storage.places import create_at, open_place, storage_at
from vbrcore.storage.port import Appender, Lock, Reader, Storage
from vbrcore.storage.repository import write_identity

T = TypeVar("T")
_THREADS: Final = 4
_MOST_OPEN: Final = 4096


def run(control: Control) -> None:
    """Open the place, and answer until `Stop`. Raises what keeps it from being opened."""
    work = control.receive()
    if isinstance(work, Stop):
        raise stopped()
    if not isinstance(work, KeepWork):
        raise ProtocolError(f"a storage mover cannot do {type(work).__name__}")
    started = time.monotonic()
    storage_class = create_at(work.place, work.repository_id) if work.purpose == "create" else ""
    storage = storage_at(work.place) if work.purpose == "look" else open_place(work.place, work.repository_id)
    connect_s = time.monotonic() - started
    keeper = Storekeeper(control, storage, str(work.place))
    control.send(Kept(storage.alignment_bytes, storage_class, connect_s))
    with ThreadPoolExecutor(_THREADS) as threads:
        while not isinstance(message := control.receive(), Stop):
            if not isinstance(message, Asked):
                raise ProtocolError(f"a storage mover cannot do {type(message).__name__}")
            threads.submit(keeper.answer, message)
    control.send(Ended())


class Storekeeper:
    """What is open has a number. `answer` may be called from several threads."""

    def __init__(self, control: Control, storage: Storage, where: str) -> None:
        self._control = control
        self._storage = storage
        self._where = where
        self._readers: dict[int, Reader] = {}
        self._appenders: dict[int, Appender] = {}
        self._locks: dict[int, Lock] = {}
        self._numbers = itertools.count(1)
        self._contents: dict[type, Callable[[Any], bytes]] = {
            ask.Read: lambda q: storage.read(q.name, q.offset, _bounded(q.length)),
            ask.ReadOpen: lambda q: _read(self._found(self._readers, q.handle), q.offset, _bounded(q.length)),
        }
        self._values: dict[type, Callable[[Any], int]] = {
            ask.SizeOpen: lambda q: self._found(self._readers, q.handle).size_bytes,
            ask.Size: lambda q: storage.size(q.name),
            ask.AllocatedBytes: lambda q: storage.allocated_bytes(q.name),
            ask.FreeBytes: lambda _: storage.free_bytes(),
            ask.CapacityBytes: lambda _: storage.capacity_bytes(),
            ask.OpenReader: lambda q: self._keep(self._readers, storage.open_reader(q.name)),
            ask.Create: lambda q: self._keep(self._appenders, storage.create(q.name)),
            ask.Modify: lambda q: self._keep(self._appenders, storage.modify(q.name)),
            ask.Lock: lambda q: self._keep(self._locks, storage.lock(q.name)),
        }
        self._orders: dict[type, Callable[[Any], None]] = {
            ask.Write: self._write,
            ask.CloneRange: lambda q: self._found(self._appenders, q.handle).clone_range(
                q.source, q.source_offset, q.offset, q.length
            ),
            ask.Sync: lambda q: self._found(self._appenders, q.handle).sync(),
            ask.Close: self._close,
            ask.SyncDirectory: lambda q: storage.sync_directory(q.prefix),
            ask.Truncate: lambda q: storage.truncate(q.name, q.size_bytes),
            ask.Punch: lambda q: storage.punch(q.name, q.offset, q.length),
            ask.Rename: lambda q: storage.rename(q.name, q.new_name),
            ask.Remove: lambda q: storage.remove(q.name),
            ask.RemoveDirectory: lambda q: storage.remove_directory(q.prefix),
            ask.Adopt: lambda q: write_identity(storage, where, q.repository_id),
        }

    def answer(self, asked: Asked) -> None:
        """Answer one question, also where it fails."""
        try:
            self._control.fence()
            for answer in self._answers(asked.number, asked.question):
                self._control.send(answer)
        except Exception as error:  # noqa: BLE001 - whoever asked waits for an answer, also of a bug
            self._control.send(Answer(asked.number, error=_info(error)))

    def _answers(self, number: int, question: ask.Question) -> Iterator[Answer]:
        kind = type(question)
        if isinstance(question, ask.ListNames):
            names = self._storage.list(question.prefix)
            starts = range(0, max(1, len(names)), ask.PART_NAMES)
            for start in starts:
                yield Answer(number, names=names[start : start + ask.PART_NAMES], more=start != starts[-1])
        elif kind in self._contents:
            yield Answer(number, data=self._contents[kind](question))
        elif kind in self._values:
            yield Answer(number, value=self._values[kind](question))
        else:
            self._orders[kind](question)
            yield Answer(number)

    def _write(self, question: ask.Write) -> None:
        appender = self._found(self._appenders, question.handle)
        if question.slot:
            appender.write_slot(question.offset, question.data)
        else:
            appender.write(question.offset, [question.data])

    def _keep(self, opened: dict[int, T], what: T) -> int:
        if len(opened) >= _MOST_OPEN:
            raise ProtocolError(f"{self._where}: more than {_MOST_OPEN} files are open")
        number = next(self._numbers)
        opened[number] = what
        return number

    def _found(self, opened: dict[int, T], handle: int) -> T:
        found = opened.get(handle)
        if found is None:
            raise ProtocolError(f"{self._where}: nothing of this kind that is open has the number {handle}")
        return found

    def _close(self, question: ask.Close) -> None:
        reader, appender = self._readers.pop(question.handle, None), self._appenders.pop(question.handle, None)
        lock = self._locks.pop(question.handle, None)
        if reader is not None:
            reader.close()
        if appender is not None:
            appender.close()
        if lock is not None:
            lock.release()


def _info(error: Exception) -> ErrorInfo:
    """A `ValueError` of the port says that what was asked for is no multiple of a block."""
    return InvalidValue(str(error)).info() if isinstance(error, ValueError) else info_of(error)


def _read(reader: Reader, offset: int, length: int) -> bytes:
    buffer = bytearray(max(0, min(length, reader.size_bytes - offset)))
    count = reader.read_into(offset, [buffer]) if buffer else 0
    return bytes(memoryview(buffer)[:count])


def _bounded(length: int) -> int:
    if not 0 <= length <= ask.PART_BYTES:
        raise InvalidValue(f"{length} bytes are not read at once")
    return length
