"""The storage port on a place that another process opens: a storage mover, wherever its transport started it."""

import asyncio
import itertools
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Literal

from vbrcore.model.errors import MoverLost, ProtocolError, StorageFailed, VbrError, error_from
from vbrcore.model.place import Place
from vbrcore.mover import questions as ask
from vbrcore.mover.messages import Answer, Asked, Failed, KeepWork, Kept, Log, Progress
from vbrcore.storage.port import SLOT_BYTES, Buffer, check_aligned
from vbrcore.transport.client import MoverHandle


class RemoteAppender:
    """See `port.Appender`."""

    def __init__(self, storage: "RemoteStorage", handle: int) -> None:
        self._storage = storage
        self._handle = handle
        self._failed = False

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._check()
        data = memoryview(b"".join(parts))
        for start in range(0, len(data), ask.PART_BYTES):
            part = bytes(data[start : start + ask.PART_BYTES])
            self._storage.ask(ask.Write(self._handle, offset + start, part))

    def clone_range(self, source: str, source_offset: int, offset: int, length: int) -> None:
        check_aligned(self._storage.alignment_bytes, source_offset, offset, length)
        self._check()
        self._storage.ask(ask.CloneRange(self._handle, source, source_offset, offset, length))

    def write_slot(self, offset: int, data: Buffer) -> None:
        if len(data) != SLOT_BYTES:
            raise ValueError(f"a slot has {SLOT_BYTES} bytes")
        self._check()
        self._storage.ask(ask.Write(self._handle, offset, bytes(data), slot=True))

    def sync(self) -> None:
        self._check()
        try:
            self._storage.ask(ask.Sync(self._handle))
        except VbrError:
            self._failed = True
            raise

    def close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            self._storage.give_back(handle)

    def _check(self) -> None:
        if self._failed or not self._handle:
            raise StorageFailed(f"{self._storage.where}: not written to after an error or its end")


class RemoteReader:
    """See `port.Reader`."""

    def __init__(self, storage: "RemoteStorage", handle: int) -> None:
        self._storage = storage
        self._handle = handle

    @property
    def size_bytes(self) -> int:
        return self._storage.ask(ask.SizeOpen(self._handle)).value

    def read_into(self, offset: int, parts: Sequence[bytearray | memoryview]) -> int:
        done = 0
        for part in parts:
            view = memoryview(part).cast("B")
            while view:
                wanted = min(len(view), ask.PART_BYTES)
                data = self._storage.ask(ask.ReadOpen(self._handle, offset + done, wanted)).data
                if len(data) > wanted:
                    raise ProtocolError(f"{self._storage.where}: {len(data)} bytes came for {wanted}")
                view[: len(data)] = data
                done += len(data)
                view = view[len(data) :]
                if len(data) < wanted:
                    return done
        return done

    def close(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            self._storage.give_back(handle)


class RemoteLock:
    """It is held by the mover, and ends with it."""

    def __init__(self, storage: "RemoteStorage", handle: int) -> None:
        self._storage = storage
        self._handle = handle

    def release(self) -> None:
        handle, self._handle = self._handle, 0
        if handle:
            self._storage.give_back(handle)


class RemoteStorage:
    """See `port.Storage`. Its methods block, and are not for the thread of the event loop that the mover talks to.

    `lost`: why nothing can be asked any more; then every method raises it.
    """

    def __init__(self, handle: MoverHandle, where: str, kept: Kept) -> None:
        self.alignment_bytes = kept.alignment_bytes
        self.storage_class = kept.storage_class
        self.connect_s = kept.connect_s
        self.where = where
        self.lost: VbrError | None = None
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, Future[Answer]] = {}
        self._parts: dict[int, list[str]] = {}
        self._lock = threading.Lock()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def open(
        cls,
        handle: MoverHandle,
        place: Place,
        repository_id: str,
        purpose: Literal["open", "create", "look"] = "open",
    ) -> "RemoteStorage":
        """Have a storage mover open a place. Raises what keeps it from that; the mover is gone then."""
        try:
            await handle.send(KeepWork(place, repository_id, purpose))
            while True:
                match await handle.receive():
                    case Kept() as kept:
                        return cls(handle, str(place), kept)
                    case Failed(error=error):
                        raise error_from(error)
                    case Log() | Progress():
                        continue
                    case other:
                        raise ProtocolError(f"storage mover said {type(other).__name__} before it was ready")
        except BaseException:
            await handle.kill()
            raise

    async def close(self) -> None:
        """End the mover, and with it what is open and locked."""
        await self._handle.kill()
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._lose(MoverLost(f"{self.where}: its storage mover was ended"))

    def ask(self, question: ask.Question) -> Answer:
        """Ask and wait for the answer. Raises what the storage raised, `MoverLost`, `TransportLost`."""
        answered: Future[Answer] = Future()
        with self._lock:
            if self.lost is not None:
                raise self.lost
            number = next(self._numbers)
            self._waiting[number] = answered
        asyncio.run_coroutine_threadsafe(self._handle.send(Asked(number, question)), self._loop).result()
        answer = answered.result()
        if answer.error is not None:
            raise error_from(answer.error)
        return answer

    def give_back(self, handle: int) -> None:
        """Close what has this number; with a lost mover it is closed already."""
        if self.lost is None:
            self.ask(ask.Close(handle))

    def create(self, name: str) -> RemoteAppender:
        return RemoteAppender(self, self.ask(ask.Create(name)).value)

    def modify(self, name: str) -> RemoteAppender:
        return RemoteAppender(self, self.ask(ask.Modify(name)).value)

    def open_reader(self, name: str) -> RemoteReader:
        return RemoteReader(self, self.ask(ask.OpenReader(name)).value)

    def read(self, name: str, offset: int, length: int) -> bytes:
        parts: list[bytes] = []
        while length > 0:
            wanted = min(length, ask.PART_BYTES)
            data = self.ask(ask.Read(name, offset, wanted)).data
            if len(data) > wanted:
                raise ProtocolError(f"{self.where}: {len(data)} bytes came for {wanted}")
            parts.append(data)
            if len(data) < wanted:
                break
            offset, length = offset + wanted, length - wanted
        return b"".join(parts)

    def size(self, name: str) -> int:
        return self.ask(ask.Size(name)).value

    def allocated_bytes(self, name: str) -> int:
        return self.ask(ask.AllocatedBytes(name)).value

    def list(self, prefix: str) -> tuple[str, ...]:
        return self.ask(ask.ListNames(prefix)).names

    def sync_directory(self, prefix: str) -> None:
        self.ask(ask.SyncDirectory(prefix))

    def truncate(self, name: str, size_bytes: int) -> None:
        self.ask(ask.Truncate(name, size_bytes))

    def punch(self, name: str, offset: int, length: int) -> None:
        self.ask(ask.Punch(name, offset, length))

    def rename(self, name: str, new_name: str) -> None:
        self.ask(ask.Rename(name, new_name))

    def remove(self, name: str) -> None:
        self.ask(ask.Remove(name))

    def remove_directory(self, prefix: str) -> None:
        self.ask(ask.RemoveDirectory(prefix))

    def lock(self, name: str) -> RemoteLock:
        return RemoteLock(self, self.ask(ask.Lock(name)).value)

    def free_bytes(self) -> int:
        return self.ask(ask.FreeBytes()).value

    def capacity_bytes(self) -> int:
        return self.ask(ask.CapacityBytes()).value

    def adopt(self, repository_id: str) -> None:
        """Write the identity of a repository that has lost its own."""
        self.ask(ask.Adopt(repository_id))

    async def _listen(self) -> None:
        try:
            while True:
                match await self._handle.receive():
                    case Answer() as answer:
                        self._on_answer(answer)
                    case Failed(error=error):
                        raise error_from(error)
                    case Log() | Progress():
                        continue
                    case other:
                        raise ProtocolError(f"storage mover said {type(other).__name__} out of turn")
        except VbrError as error:
            self._lose(error)

    def _on_answer(self, answer: Answer) -> None:
        names = [*self._parts.pop(answer.number, ()), *answer.names]
        if answer.more:
            self._parts[answer.number] = names
            return
        with self._lock:
            answered = self._waiting.pop(answer.number, None)
        if answered is None:
            raise ProtocolError(f"storage mover answered {answer.number}, which was not asked")
        answered.set_result(Answer(answer.number, answer.value, answer.data, tuple(names), error=answer.error))

    def _lose(self, error: VbrError) -> None:
        with self._lock:
            self.lost = self.lost or error
            waiting, self._waiting = self._waiting, {}
        for answered in waiting.values():
            answered.set_exception(error)
