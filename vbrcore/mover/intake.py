"""What a target takes in from sources: one thread per source, everything checked before it is stored.

Sources of this server come to one Unix socket; with those of others it meets over TLS, each at a door of its own.
"""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from vbrcore.backupfile.codec import checksum, decompress, digest
from vbrcore.backupfile.rows import KIND_PAGE, Row
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import (
    BlocksMissing,
    DataCorrupt,
    MoverLost,
    PeerRefused,
    PermissionRefused,
    ProtocolError,
    StorageFailed,
    VbrError,
    info_of,
)
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.mover import frames
from vbrcore.mover.frames import DataStream
from vbrcore.mover.meeting import dialled
from vbrcore.mover.messages import ExpectTask
from vbrcore.mover.sockets import enlarge_buffer, listen_at

if TYPE_CHECKING:
    from vbrcore.mover.door import Door
    from vbrcore.mover.tls import TlsConnection

SAMPLE_SHARE: Final = 0.01  # of the blocks whose digest the target computes itself
_EXPECT_S: Final = 10.0  # how long a source may come before its announcement
_FIRST_BUFFER_BYTES: Final = 1024 * 1024 + 4096


class Intake:
    """Accepts exactly the sources that were announced. `on_fatal` is told of storage that has failed.

    `pace` is called with the length of each block before it is stored, and returns when that may be done. `warn` is
    told of those who were turned away.
    """

    def __init__(
        self,
        writer: ChainWriter,
        path: Path,
        on_fatal: Callable[[VbrError], None],
        pace: Callable[[int], None] = lambda _: None,
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.path = path
        self._writer = writer
        self._on_fatal = on_fatal
        self._pace = pace
        self._warn = warn
        self._changed = threading.Condition()  # guards what follows
        self._expected: dict[str, ExpectTask] = {}
        self._doors: dict[str, Door] = {}
        self._sources: dict[str, _Source] = {}
        self._threads: set[threading.Thread] = set()
        self._refusal: VbrError | None = None
        self._last_owner = 0
        self._received_bytes = 0
        self._busy_s = 0.0
        self._asked = time.monotonic()
        self._listener = listen_at(path)
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._acceptor.start()

    @property
    def received_bytes(self) -> int:
        with self._changed:
            return self._received_bytes + sum(source.received_bytes for source in self._sources.values())

    def busy(self) -> float:
        """Return the share of time since the last call in which storing kept a source's thread busy, 0 to 1."""
        with self._changed:
            busy_s = self._busy_s + sum(source.busy_s for source in self._sources.values())
        now = time.monotonic()
        share = (busy_s - self._reported_s) / max(1e-6, now - self._asked)
        self._reported_s, self._asked = busy_s, now
        return min(1.0, share)

    _reported_s = 0.0

    def expect(self, task: ExpectTask) -> int:
        """Accept a source for this attempt; an earlier attempt of the task is void from now on.

        Returns the port at which it is waited for (0: it comes to the Unix socket, or is dialled). Raises `NoFreePort`,
        `NoDataAddress`.
        """
        with self._changed:
            known = self._expected.get(task.task_id)
            if known is not None and known.attempt > task.attempt:
                return 0
            self._expected[task.task_id] = task
            self._changed.notify_all()
        self._end(task.task_id)
        if task.endpoint.proof is None:
            return 0
        if not task.endpoint.listens:
            threading.Thread(target=self._dial, args=(task,), name="dial", daemon=True).start()
            return 0
        from vbrcore.mover.door import Door  # noqa: PLC0415 - on one server no mover needs TLS

        door = Door(task.endpoint, task.endpoint.proof, lambda found: self._come(found, task), self._warn)
        with self._changed:
            self._doors[task.task_id] = door
        return door.port

    def void(self, task_id: str) -> None:
        """Expect nobody for this task any more."""
        with self._changed:
            self._expected.pop(task_id, None)
        self._end(task_id)

    def _end(self, task_id: str) -> None:
        """End the connection of an earlier attempt, and the wait for it."""
        with self._changed:
            old, door = self._sources.get(task_id), self._doors.pop(task_id, None)
        if door is not None:
            door.close()
        if old is not None:
            old.stream.close()

    def _dial(self, task: ExpectTask) -> None:
        try:
            found = dialled(task.endpoint)
        except (MoverLost, PeerRefused) as error:
            self._warn(f"source of task {task.task_id}: {error}")
            return
        self._come(found, task)

    def _come(self, found: "TlsConnection", task: ExpectTask) -> None:
        """Serve, on this thread, the mover that has proved to be the source of this attempt."""
        with self._changed:
            self._threads.add(threading.current_thread())
        self._serve(DataStream(found), task)

    def refuse_all(self, error: VbrError) -> None:
        """End all sources, and those to come, with this error."""
        with self._changed:
            self._refusal = error
            sources = tuple(self._sources.values())
        for source in sources:
            source.refuse(error)

    def close(self) -> None:
        """End everything and wait for the threads. The socket's file goes too."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()
        with self._changed:
            sources, threads = tuple(self._sources.values()), tuple(self._threads)
            doors = tuple(self._doors.values())
        for door in doors:
            door.close()
        for source in sources:
            source.stream.close()
        for thread in threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return  # closed
            enlarge_buffer(connection)
            thread = threading.Thread(target=self._serve, args=(DataStream(connection),), name="source", daemon=True)
            with self._changed:
                self._threads.add(thread)
            thread.start()

    def _serve(self, stream: DataStream, proved: ExpectTask | None = None) -> None:
        """Serve one connection until it ends; its promises end with it. `proved`: whose certificate it has."""
        with self._changed:
            self._last_owner += 1
            owner = self._last_owner
        source = _Source(stream, self._writer, owner, self._pace)
        try:
            self._admit(source, proved)
            source.serve()
        except VbrError as error:
            source.refuse(error)
            if isinstance(error, StorageFailed):
                self._on_fatal(error)
        except OSError as error:  # the source is gone; its manager knows
            if proved is not None:
                self._warn(f"the connection of task {proved.task_id} broke: {error}")
        except Exception as error:
            source.refuse(ProtocolError(f"the target mover failed: {error}"))
            self._on_fatal(StorageFailed(f"{type(error).__name__}: {error}"))
            raise
        finally:
            self._writer.release_owner(owner)
            stream.close()
            with self._changed:
                self._received_bytes += source.received_bytes
                self._busy_s += source.busy_s
                self._sources = {task: other for task, other in self._sources.items() if other is not source}
                self._threads.discard(threading.current_thread())

    def _admit(self, source: "_Source", proved: ExpectTask | None) -> None:
        """Read the first frame and compare. Raises `PermissionRefused`, the same for every mismatch."""
        frame = source.stream.receive()
        if frame is None or frame.kind != frames.HELLO or frame.payload_bytes:
            raise ProtocolError("a source did not say who it is")
        try:
            hello = msgspec.msgpack.decode(frame.meta, type=frames.Hello)
        except UNDECODABLE as error:
            raise ProtocolError(f"a source's first frame cannot be read: {error}") from error
        if hello.version != frames.VERSION:
            raise ProtocolError(f"a source speaks version {hello.version} of the data protocol")

        def known() -> bool:
            task = self._expected.get(hello.task_id)
            if task is None or (task.endpoint.proof is not None and task is not proved):
                return False
            return compare_digest(task.endpoint.secret, hello.secret)

        with self._changed:
            may_come = proved is None and hello.task_id not in self._expected
            if not self._changed.wait_for(known, _EXPECT_S if may_come else 0):
                raise PermissionRefused("this attempt of the task is not expected")
            if self._refusal is not None:
                raise self._refusal
            source.attempt = self._expected[hello.task_id].attempt
            old = self._sources.get(hello.task_id)
            if old is not None and old.attempt == source.attempt:
                raise PermissionRefused("this attempt of the task is connected already")
            self._sources[hello.task_id] = source
        source.stream.send(frames.WELCOME)


class _Source:
    """One admitted source: answers its questions and stores its blocks."""

    def __init__(self, stream: DataStream, writer: ChainWriter, owner: int, pace: Callable[[int], None]) -> None:
        self.stream = stream
        self._pace = pace
        self.attempt = 0
        self.received_bytes = 0
        self.busy_s = 0.0
        self._writer = writer
        self._owner = owner
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)
        self._random = random.Random()  # noqa: S311 - a sample, not a secret

    def serve(self) -> None:
        """Handle frames until the source ends the stream. Raises what is wrong with one of them."""
        while (frame := self.stream.receive()) is not None:
            started = time.perf_counter()
            if frame.kind == frames.BLOCK:
                self._block(frame)
            elif frame.payload_bytes:
                raise ProtocolError(f"frame {frame.kind} must have no payload")
            elif frame.kind == frames.ASK:
                ask_id, digests = frames.unpack_ask(frame.meta)
                self.stream.send(frames.ANSWER, frames.pack_answer(ask_id, self._writer.lookup(digests, self._owner)))
            elif frame.kind == frames.PAGE:
                self._page(frame.meta)
            elif frame.kind == frames.DONE:
                self.stream.send(frames.CONFIRMED)
            else:
                raise ProtocolError(f"a source sent frame {frame.kind}")
            self.busy_s += time.perf_counter() - started

    def refuse(self, error: VbrError) -> None:
        """Tell the source why, and end the connection. May be called from any thread."""
        with contextlib.suppress(OSError):
            self.stream.send(frames.REFUSED, frames.pack_error(info_of(error)))
        self.stream.close()

    def _block(self, frame: frames.Frame) -> None:
        row = frames.unpack_block(frame.meta, frame.payload_bytes)
        if row.stored_length > len(self._buffer):
            self._buffer = bytearray(row.stored_length)
        stored = memoryview(self._buffer)[: row.stored_length]
        self.stream.payload_into(stored)
        self.received_bytes += row.stored_length
        if checksum(stored) != row.checksum:
            raise ProtocolError("a block's checksum does not match: nothing of it was stored")
        # Pages are small and everything hangs on them; of blocks a sample is enough to see a source that lies.
        # Of an encrypted one nothing can be seen here.
        if row.kind == KIND_PAGE or (not row.encrypted and self._random.random() < SAMPLE_SHARE):
            _check_digest(row, stored)
        self._pace(row.stored_length)
        self._writer.append(row, stored, self._owner)
        self._writer.checkpoint_if_due()

    def _page(self, name: bytes) -> None:
        try:
            content, found = self._writer.page(name), b"\x01"
        except (BlocksMissing, DataCorrupt):
            content, found = b"", b"\x00"
        self.stream.send(frames.PAGE_DATA, found, content)


def _check_digest(row: Row, stored: memoryview) -> None:
    if digest(decompress(stored, row.raw_length, row.codec)) != row.digest:
        raise DataCorrupt(f"a source sent a block that is not {row.digest.hex()[:16]}: nothing of it was stored")
