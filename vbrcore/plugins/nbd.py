"""NBD client: reads and writes an export over one or several connections, block status included. Pure Python.

The public face for plugins; `nbdwire` is one connection. Safe to use from several threads.
"""

import contextlib
import errno
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

from vbrcore.model.errors import SinkWriteFailed, SourceReadFailed, TrackingLost, VbrError
from vbrcore.plugins import nbdwire
from vbrcore.plugins.mover import Extent
from vbrcore.plugins.nbdwire import Connection, Request, WireError

ALLOCATION = "base:allocation"
ALLOCATION_ZERO = 2  # flag of base:allocation: reads as zeros
BITMAP_DIRTY = 1  # flag of qemu:dirty-bitmap:NAME

TIMEOUT_S = 60.0
CONNECTIONS = 4
_WINDOW = 8  # requests that one call keeps in flight
_MAX_TRANSFER_BYTES = 1024 * 1024
_MAX_STATUS_BYTES = 0xFFFF0000  # fits 32 bits and is a multiple of every block size

Connect = Callable[[], socket.socket]


def unix(path: str) -> Connect:
    """Return what connects to a Unix socket."""

    def connect() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            sock.settimeout(TIMEOUT_S)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return sock

    return connect


def tcp(host: str, port: int) -> Connect:
    """Return what connects to a TCP port."""

    def connect() -> socket.socket:
        sock = socket.create_connection((host, port), TIMEOUT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    return connect


class NbdClient:
    """An open export. `size_bytes`, `contexts` (those of the asked ones that the server has) and `min_block_bytes`
    are the server's.

    Raises `SourceReadFailed` from reading and block status, `SinkWriteFailed` from writing; opening raises the one
    given as `failure`. A server that is silent for `timeout_s` counts as dead. A connection that failed is not used
    again; calls go on over the others while there are any.
    """

    def __init__(
        self,
        connect: Connect,
        export: str = "",
        *,
        contexts: Sequence[str] = (ALLOCATION,),
        connections: int = CONNECTIONS,
        timeout_s: float = TIMEOUT_S,
        failure: type[VbrError] = SourceReadFailed,
    ) -> None:
        self.export = export
        self._connections: list[Connection] = []
        self._choosing = threading.Lock()
        try:
            first = Connection(connect(), export, contexts, timeout_s)
        except (OSError, WireError) as error:
            raise failure(f"NBD export {export!r} cannot be opened: {error}") from error
        self._connections.append(first)
        self.size_bytes = first.export.size_bytes
        self.flags = first.export.flags
        self.contexts = frozenset(first.export.contexts)
        self.min_block_bytes = first.export.min_block
        self._max_bytes = (
            min(first.export.max_block, _MAX_TRANSFER_BYTES) // self.min_block_bytes * self.min_block_bytes
        )
        if self.flags & nbdwire.FLAG_CAN_MULTI_CONN:
            self._connect_more(connect, contexts, connections - 1, timeout_s)

    @property
    def connections(self) -> int:
        """How many connections are in use: several only where the server says that they see the same data."""
        return len(self._connections)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`, received straight into it. Raises `SourceReadFailed`."""
        start, stop = self._aligned(offset, len(buffer))
        try:
            if (start, stop) == (offset, offset + len(buffer)):
                self._run(nbdwire.CMD_READ, offset, len(buffer), buffer)
            else:
                bounce = memoryview(bytearray(stop - start))
                self._run(nbdwire.CMD_READ, start, stop - start, bounce)
                buffer[:] = bounce[offset - start : offset - start + len(buffer)]
        except WireError as error:
            self._fail(SourceReadFailed, "reading", offset, error)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write the whole buffer at `offset`, a multiple of the server's smallest block. Raises `SinkWriteFailed`."""
        try:
            self._check_aligned(offset, len(buffer))
            self._run(nbdwire.CMD_WRITE, offset, len(buffer), buffer)
        except WireError as error:
            self._fail(SinkWriteFailed, "writing", offset, error)

    def zero(self, offset: int, length: int) -> None:
        """Make a range read as zeros, sparse where the server can. Raises `SinkWriteFailed`."""
        if not self.flags & nbdwire.FLAG_SEND_WRITE_ZEROES:
            zeros = memoryview(bytes(min(length, self._max_bytes)))
            for start in range(offset, offset + length, self._max_bytes):
                self.write_from(start, zeros[: min(self._max_bytes, offset + length - start)])
            return
        try:
            self._check_aligned(offset, length)
            self._run(nbdwire.CMD_WRITE_ZEROES, offset, length, None)
        except WireError as error:
            self._fail(SinkWriteFailed, "zeroing", offset, error)

    def flush(self) -> None:
        """Make what was written durable. Raises `SinkWriteFailed`."""
        if self.flags & nbdwire.FLAG_SEND_FLUSH:
            try:
                self._wait(self._send(Request(nbdwire.CMD_FLUSH, 0, 0)))
            except WireError as error:
                self._fail(SinkWriteFailed, "flushing", 0, error)

    def block_status(self, context: str, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (offset, length, flags) of a metadata context in order and without gaps.

        Raises `SourceReadFailed`, also where the server does not have the context.
        """
        end = offset + length
        while offset < end:
            start, stop = self._aligned(offset, min(end - offset, _MAX_STATUS_BYTES // 2))
            request = Request(nbdwire.CMD_BLOCK_STATUS, start, stop - start)
            try:
                connection = self._send(request)
                self._wait(connection)
                extents = request.status.get(connection[0].export.contexts.get(context, -1))
            except WireError as error:
                self._fail(SourceReadFailed, "asking the block status", offset, error)
            if not extents:
                raise SourceReadFailed(f"NBD export {self.export!r} gives no {context} at offset {offset}")
            for extent_length, flags in extents:
                # The last extent may reach beyond what was asked; a length of 0 would never end.
                extent_stop = min(start + extent_length, end)
                if extent_length == 0:
                    raise SourceReadFailed(f"NBD export {self.export!r} gives an empty extent at offset {start}")
                if extent_stop > offset:
                    yield offset, extent_stop - offset, flags
                    offset = extent_stop
                start += extent_length

    def extents(self, bitmap: str = "") -> Iterator[Extent]:
        """Yield what `mover.Reader.extents` yields. `bitmap` is the context of a dirty bitmap, "" for none.

        Raises `TrackingLost` if the server has no such bitmap.
        """
        if bitmap and bitmap not in self.contexts:
            raise TrackingLost(f"NBD export {self.export!r} has no {bitmap}")
        return merged(self._extents(bitmap))

    def close(self) -> None:
        """Disconnect. Idempotent. Calls in flight fail."""
        for connection in self._connections:
            connection.close()

    def _extents(self, bitmap: str) -> Iterator[Extent]:
        if not bitmap:
            yield from self._allocation(0, self.size_bytes)
            return
        for offset, length, flags in self.block_status(bitmap, 0, self.size_bytes):
            if flags & BITMAP_DIRTY:
                yield from self._allocation(offset, length)
            else:
                yield Extent(offset, length, "unchanged")

    def _allocation(self, offset: int, length: int) -> Iterator[Extent]:
        if ALLOCATION not in self.contexts:
            yield Extent(offset, length, "data")
            return
        for start, size, flags in self.block_status(ALLOCATION, offset, length):
            yield Extent(start, size, "zero" if flags & ALLOCATION_ZERO else "data")

    def _connect_more(self, connect: Connect, contexts: Sequence[str], count: int, timeout_s: float) -> None:
        for _ in range(count):
            try:
                connection = Connection(connect(), self.export, contexts, timeout_s)
            except (OSError, WireError):
                return  # the server allows no more; what there is suffices
            if connection.export.size_bytes != self.size_bytes:
                connection.close()
                return
            self._connections.append(connection)

    def _aligned(self, offset: int, length: int) -> tuple[int, int]:
        """Return start and end of the range widened to the server's smallest block."""
        block = self.min_block_bytes
        return offset // block * block, min(-(-(offset + length) // block) * block, self.size_bytes)

    def _check_aligned(self, offset: int, length: int) -> None:
        if self._aligned(offset, length) != (offset, offset + length):
            raise WireError(f"the range is not a multiple of {self.min_block_bytes}", errno.EINVAL)

    def _run(self, command: int, offset: int, length: int, buffer: memoryview | None) -> None:
        """Do a long command in pieces, several in flight over the connections. Always waits for all it has sent."""
        flying: deque[tuple[Connection, Request]] = deque()
        failed: WireError | None = None
        for start in range(0, length, self._max_bytes):
            size = min(self._max_bytes, length - start)
            view = None if buffer is None else buffer[start : start + size]
            try:
                flying.append(self._send(Request(command, offset + start, size, view)))
                if len(flying) == _WINDOW:
                    self._wait(flying.popleft())
            except WireError as error:
                failed = error
                break
        for sent in flying:
            try:
                self._wait(sent)
            except WireError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    def _send(self, request: Request) -> tuple[Connection, Request]:
        while True:
            with self._choosing:
                usable = [connection for connection in self._connections if not connection.broken]
                if not usable:
                    raise WireError(self._connections[-1].broken)
                connection = min(usable, key=lambda usable: usable.load)
            # Broken meanwhile, before anything was sent: another one will do.
            with contextlib.suppress(WireError):
                connection.send(request)
                return connection, request

    @staticmethod
    def _wait(sent: tuple[Connection, Request]) -> None:
        sent[0].wait(sent[1])

    def _fail(self, failure: type[VbrError], doing: str, offset: int, error: WireError) -> NoReturn:
        raise failure(f"{doing} NBD export {self.export!r} at offset {offset} failed: {error}") from error


def merged(extents: Iterator[Extent]) -> Iterator[Extent]:
    """Join neighbours of the same state."""
    last: Extent | None = None
    for extent in extents:
        if last is not None and last.state == extent.state:
            last = Extent(last.offset, last.length + extent.length, last.state)
            continue
        if last is not None:
            yield last
        last = extent
    if last is not None:
        yield last
