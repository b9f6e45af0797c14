"""One NBD connection: fixed newstyle negotiation, then requests and replies, several in flight.

Every length that comes from the server is bounded before memory is taken. A connection that met any error is broken
for good, because nobody knows where its stream stands.
"""

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Sequence

import msgspec

INIT_MAGIC = 0x4E42444D41474943
OPTION_MAGIC = 0x49484156454F5054
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_MAGIC = 0x67446698
STRUCTURED_MAGIC = 0x668E33EF

FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_ABORT, OPT_GO, OPT_STRUCTURED_REPLY, OPT_SET_META_CONTEXT = 2, 7, 8, 10
REP_ACK, REP_INFO, REP_META_CONTEXT, REP_ERROR = 1, 3, 4, 1 << 31
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3

FLAG_READ_ONLY, FLAG_SEND_FLUSH, FLAG_SEND_WRITE_ZEROES, FLAG_CAN_MULTI_CONN = 1 << 1, 1 << 2, 1 << 6, 1 << 8
CMD_READ, CMD_WRITE, CMD_DISC, CMD_FLUSH, CMD_WRITE_ZEROES, CMD_BLOCK_STATUS = 0, 1, 2, 3, 6, 7
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_ERROR = 0, 1, 2, 5, 1 << 15
CHUNK_DONE = 1

MAX_OPTION_REPLY_BYTES = 64 * 1024
MAX_STATUS_BYTES = 1024 * 1024 + 4
MAX_ERROR_BYTES = 64 * 1024
MAX_OPTION_REPLIES = 4096
MAX_NAME_BYTES = 4096


class WireError(Exception):
    """The server refused, failed, went silent or broke the protocol. `number` is an errno, or 0."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.number = number


class Export(msgspec.Struct, frozen=True):
    """What the server says of an export. `contexts` maps names of metadata contexts to their ids here."""

    size_bytes: int
    flags: int
    contexts: dict[str, int]
    min_block: int = 1
    max_block: int = 32 * 1024 * 1024


class Request:
    """One request in flight. `buffer` is the caller's memory: filled by a READ, sent by a WRITE."""

    __slots__ = ("buffer", "command", "done", "error", "length", "offset", "pieces", "status")

    def __init__(self, command: int, offset: int, length: int, buffer: memoryview | None = None) -> None:
        self.command = command
        self.offset = offset
        self.length = length
        self.buffer = buffer
        self.done = False
        self.error: WireError | None = None
        self.pieces: list[tuple[int, int]] = []
        self.status: dict[int, list[tuple[int, int]]] = {}


class Connection:
    """A negotiated connection. `send` and `wait` may be called from several threads at once.

    There is no receiving thread: whoever waits while nobody receives does it, for all, straight into their buffers.
    """

    def __init__(self, sock: socket.socket, export: str, contexts: Sequence[str], timeout_s: float) -> None:
        self._socket = sock
        self._timeout_s = timeout_s
        self._sending = threading.Lock()
        self._state = threading.Condition()
        self._receiving = False
        self._pending: dict[int, Request] = {}
        self._cookie = 0
        self._broken = ""
        self._refusal = ""
        # Timeouts of the kernel, not of Python: a socket of Python's with a timeout costs a poll per call.
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(timeout_s))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout_s))
        self.structured = False
        try:
            self.export = self._negotiate(export, contexts)
        except BaseException:
            sock.close()
            raise

    @property
    def load(self) -> int:
        """How many requests are in flight."""
        return len(self._pending)

    @property
    def broken(self) -> str:
        return self._broken

    def send(self, request: Request) -> None:
        """Send a request and return at once; `wait` must follow and reports what failed. Raises `WireError`
        (nothing was sent) where the connection is broken already.
        """
        with self._sending:
            with self._state:
                if self._broken:
                    raise WireError(self._broken)
                self._cookie += 1
                self._pending[self._cookie] = request
            try:
                self._send_all(_request(request, self._cookie))
                if request.command == CMD_WRITE and request.buffer is not None:
                    self._send_all(request.buffer)
            except OSError as error:
                self._break(f"the NBD server takes no requests: {self._reason(error)}")

    def wait(self, request: Request) -> None:
        """Return when the request is done. Raises `WireError`. Afterwards nobody touches the request's buffer."""
        with self._state:
            self._state.wait_for(lambda: request.done or not self._receiving)
            receive = not request.done
            self._receiving = self._receiving or receive
        if receive:
            self._receive_until(request)
        if request.error is not None:
            raise request.error

    def close(self) -> None:
        """Say goodbye and close. Requests in flight fail. Idempotent."""
        with self._sending:
            if not self._broken:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(1.0))
                with contextlib.suppress(OSError):
                    self._send_all(_request(Request(CMD_DISC, 0, 0), 0))
            self._break("the connection was closed")
        with self._state:
            self._state.wait_for(lambda: not self._receiving)
        self._socket.close()

    # --- receiving: one thread at a time, for all ---------------------------------------------------

    def _receive_until(self, request: Request) -> None:
        try:
            while not request.done:
                self._receive_reply()
        except (OSError, WireError) as error:
            self._break(self._reason(error))
        finally:
            with self._state:
                if self._broken:
                    for waiting in self._pending.values():
                        waiting.error = WireError(self._broken)
                        waiting.done = True
                    self._pending.clear()
                self._receiving = False
                self._state.notify_all()

    def _receive_reply(self) -> None:
        head = self._receive(16)
        (magic,) = struct.unpack_from(">I", head)
        if magic == STRUCTURED_MAGIC and self.structured:
            flags, kind, cookie = struct.unpack_from(">HHQ", head, 4)
            (length,) = struct.unpack(">I", self._receive(4))
            request = self._of(cookie)
            self._receive_chunk(request, kind, length)
            if flags & CHUNK_DONE:
                self._complete(cookie, request)
        elif magic == SIMPLE_MAGIC:
            number, cookie = struct.unpack_from(">IQ", head, 4)
            request = self._of(cookie)
            if number:
                request.error = _refused(number, "")
            elif request.buffer is not None and request.command == CMD_READ:
                self._receive_into(request.buffer)
                request.pieces.append((0, request.length))
            self._complete(cookie, request)
        else:
            raise WireError(f"the NBD server sent no reply but 0x{magic:08x}")

    def _of(self, cookie: int) -> Request:
        request = self._pending.get(cookie)
        if request is None:
            raise WireError("the NBD server answered what was not asked")
        return request

    def _receive_chunk(self, request: Request, kind: int, length: int) -> None:
        if kind == CHUNK_DATA:
            self._receive_data(request, length)
        elif kind == CHUNK_HOLE:
            if length != 12:
                raise WireError("the NBD server sent a hole of a wrong form")
            offset, hole = struct.unpack(">QI", self._receive(12))
            view = self._piece(request, offset, hole)
            view[:] = bytes(hole)
        elif kind == CHUNK_STATUS:
            self._receive_status(request, length)
        elif kind & CHUNK_ERROR:
            if not 6 <= length <= MAX_ERROR_BYTES:
                raise WireError("the NBD server sent an error of a wrong form")
            body = self._receive(length)
            number, size = struct.unpack_from(">IH", body)
            request.error = request.error or _refused(number, bytes(body[6 : 6 + size]).decode(errors="replace"))
        elif kind != CHUNK_NONE or length:
            raise WireError(f"the NBD server sent a chunk of unknown type {kind}")

    def _receive_data(self, request: Request, length: int) -> None:
        if length < 8:
            raise WireError("the NBD server sent data of a wrong form")
        (offset,) = struct.unpack(">Q", self._receive(8))
        self._receive_into(self._piece(request, offset, length - 8))

    def _piece(self, request: Request, offset: int, length: int) -> memoryview:
        """Return the part of the caller's buffer that a chunk fills, if it is a part of it."""
        start = offset - request.offset
        if request.command != CMD_READ or request.buffer is None or start < 0 or start + length > request.length:
            raise WireError("the NBD server sent data that was not asked for")
        request.pieces.append((start, start + length))
        return request.buffer[start : start + length]

    def _receive_status(self, request: Request, length: int) -> None:
        if request.command != CMD_BLOCK_STATUS or length % 8 != 4 or not 12 <= length <= MAX_STATUS_BYTES:
            raise WireError("the NBD server sent a block status of a wrong form")
        body = self._receive(length)
        (context,) = struct.unpack_from(">I", body)
        request.status[context] = list(struct.iter_unpack(">II", memoryview(body)[4:]))

    def _complete(self, cookie: int, request: Request) -> None:
        if request.command == CMD_READ and request.error is None:
            end = 0
            for start, stop in sorted(request.pieces):
                if start != end:
                    raise WireError("the NBD server left out a part of what was read")
                end = stop
            if end != request.length:
                raise WireError("the NBD server sent less than was read")
        with self._state:
            del self._pending[cookie]
            request.done = True
            self._state.notify_all()

    # --- the socket ---------------------------------------------------------------------------------

    def _receive(self, length: int) -> bytearray:
        data = bytearray(length)
        self._receive_into(memoryview(data))
        return data

    def _receive_into(self, view: memoryview) -> None:
        while len(view):
            got = self._socket.recv_into(view, 0, socket.MSG_WAITALL)
            if not got:
                raise WireError(self._broken or "the NBD server closed the connection")
            view = view[got:]

    def _send_all(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            view = view[self._socket.send(view) :]

    def _break(self, reason: str) -> None:
        """Make the connection unusable; whoever receives meets the end of the stream and fails all requests."""
        self._broken = self._broken or reason
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def _reason(self, error: OSError | WireError) -> str:
        if isinstance(error, BlockingIOError):
            return f"the NBD server was silent for {self._timeout_s:g} s"
        return str(error)

    # --- negotiation --------------------------------------------------------------------------------

    def _negotiate(self, name: str, contexts: Sequence[str]) -> Export:
        try:
            magic, option, flags = struct.unpack(">QQH", self._receive(18))
            if magic != INIT_MAGIC or option != OPTION_MAGIC or not flags & FIXED_NEWSTYLE:
                raise WireError("the other side is no NBD server of the fixed newstyle")
            self._send_all(struct.pack(">I", flags & (FIXED_NEWSTYLE | NO_ZEROES)))
            self.structured = self._option(OPT_STRUCTURED_REPLY, b"") is not None
            ids = self._set_contexts(name, contexts) if self.structured and contexts else {}
            return self._go(name, ids)
        except OSError as error:
            raise WireError(self._reason(error)) from error

    def _set_contexts(self, name: str, contexts: Sequence[str]) -> dict[str, int]:
        body = _text(name) + struct.pack(">I", len(contexts)) + b"".join(_text(context) for context in contexts)
        ids: dict[str, int] = {}
        for kind, reply in self._option(OPT_SET_META_CONTEXT, body) or ():
            if kind == REP_META_CONTEXT and len(reply) > 4:
                ids[bytes(reply[4:]).decode(errors="replace")] = struct.unpack_from(">I", reply)[0]
        return ids

    def _go(self, name: str, ids: dict[str, int]) -> Export:
        body = _text(name) + struct.pack(">HH", 1, INFO_BLOCK_SIZE)
        replies = self._option(OPT_GO, body)
        if replies is None:
            raise WireError(f"the NBD server has no export {name!r}: {self._refusal}")
        export: tuple[int, int] | None = None
        blocks = (1, 32 * 1024 * 1024)
        for kind, reply in replies:
            if kind != REP_INFO or len(reply) < 2:
                continue
            (info,) = struct.unpack_from(">H", reply)
            if info == INFO_EXPORT and len(reply) == 12:
                export = struct.unpack_from(">QH", reply, 2)
            elif info == INFO_BLOCK_SIZE and len(reply) == 14:
                minimum, _, maximum = struct.unpack_from(">III", reply, 2)
                blocks = (minimum, maximum)
        if export is None or export[0] >= 1 << 63:
            raise WireError("the NBD server gave no valid size")
        if not 1 <= blocks[0] <= 65536 or blocks[0] & (blocks[0] - 1) or blocks[1] < max(4096, blocks[0]):
            raise WireError("the NBD server gave impossible block sizes")
        return Export(export[0], export[1], ids, *blocks)

    def _option(self, option: int, body: bytes) -> list[tuple[int, bytearray]] | None:
        """Ask one option. Returns the replies before the ACK, or None where the server refuses (`_refusal`)."""
        self._send_all(struct.pack(">QII", OPTION_MAGIC, option, len(body)) + body)
        replies: list[tuple[int, bytearray]] = []
        while len(replies) < MAX_OPTION_REPLIES:
            magic, about, kind, length = struct.unpack(">QIII", self._receive(20))
            if magic != OPTION_REPLY_MAGIC or about != option or length > MAX_OPTION_REPLY_BYTES:
                raise WireError("the NBD server broke the negotiation")
            reply = self._receive(length)
            if kind == REP_ACK:
                return replies
            if kind & REP_ERROR:
                self._refusal = bytes(reply).decode(errors="replace") or f"error {kind & 0xFFFF}"
                return None
            replies.append((kind, reply))
        raise WireError("the NBD server does not end the negotiation")


def _request(request: Request, cookie: int) -> bytes:
    return struct.pack(">IHHQQI", REQUEST_MAGIC, 0, request.command, cookie, request.offset, request.length)


def _text(name: str) -> bytes:
    data = name.encode()
    if len(data) > MAX_NAME_BYTES:
        raise WireError(f"the name {name[:40]!r}... is too long for NBD")
    return struct.pack(">I", len(data)) + data


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), int(seconds % 1 * 1_000_000))


def _refused(number: int, message: str) -> WireError:
    """NBD error numbers are those of Linux."""
    return WireError(message or os.strerror(number), number)
