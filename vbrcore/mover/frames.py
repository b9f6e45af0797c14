"""The data protocol between a source and its target: frames on one stream per task.

Each frame is a fixed header (type, length of the meta part, length of the payload, xxh3-64 of type and meta), the meta
part and the payload. The payload of a BLOCK is what will be stored; its checksum stands in the row in the meta part.
Both lengths are bounded before memory is taken. The source speaks first (HELLO) and proves that it knows the secret.

    source: HELLO  ASK(id, digests)  BLOCK(row, stored bytes)  PAGE(digest)  DONE
    target: WELCOME  ANSWER(id, one byte per digest)  PAGE_DATA(found, content)  CONFIRMED  REFUSED(error)

A restore whose sink is open on another server sends, in place of the source:

    restore: HELLO  WRITE(offset, checksum, content)  ZERO(offset, length)  DONE
    sink: WELCOME(one byte: whether all must come in the order of the disk)  CONFIRMED (durable)  REFUSED(error)
"""

import contextlib
import socket
import struct
import threading
from typing import Final, Protocol

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES, checksum
from vbrcore.backupfile.rows import MAX_STORED_BYTES, ROW_BYTES, Row, pack_row, unpack_row
from vbrcore.model.errors import ErrorInfo, ProtocolError

VERSION: Final = 1

HELLO: Final = 1
ASK: Final = 2
BLOCK: Final = 3
PAGE: Final = 4
DONE: Final = 5
WRITE: Final = 6
ZERO: Final = 7
WELCOME: Final = 16
ANSWER: Final = 17
PAGE_DATA: Final = 18
CONFIRMED: Final = 19
REFUSED: Final = 20

# The status bytes of an answer; those of `ChainWriter.lookup`, which a source does not import.
HAVE: Final = 0
WAIT: Final = 1
SEND: Final = 2

_HEADER = struct.Struct("<B3xIIQ")
HEADER_BYTES: Final = _HEADER.size
MAX_META_BYTES: Final = 64 * 1024
MAX_ASK_DIGESTS: Final = 1024
ASK_ID: Final = struct.Struct("<I")
_RANGE: Final = struct.Struct("<QQ")


class Hello(msgspec.Struct, frozen=True):
    """The first frame's meta part (MessagePack)."""

    version: int
    task_id: str
    secret: bytes


class Frame(msgspec.Struct, gc=False):
    """A received frame without its payload, which the receiver takes with `DataStream.payload_into`."""

    kind: int
    meta: bytes
    payload_bytes: int


class Connection(Protocol):
    """What a `DataStream` needs of a socket."""

    def sendmsg(self, parts: tuple[bytes | bytearray | memoryview, ...], /) -> int: ...

    def send(self, data: memoryview, /) -> int: ...

    def sendall(self, data: bytes | bytearray, /) -> None: ...

    def recv_into(self, buffer: memoryview, length: int, flags: int, /) -> int: ...

    def shutdown(self, how: int, /) -> None: ...

    def close(self) -> None: ...


class DataStream:
    """One side of a data connection. `send` may be called from several threads, receiving from one."""

    def __init__(self, connection: Connection) -> None:
        self._socket = connection
        self._send_lock = threading.Lock()
        self._head = bytearray(HEADER_BYTES)

    def send(self, kind: int, meta: bytes = b"", payload: bytes | bytearray | memoryview = b"") -> int:
        """Send one frame; return its bytes. Blocks while the peer is slow. Raises OSError when it is gone."""
        head = _HEADER.pack(kind, len(meta), len(payload), _meta_checksum(kind, meta)) + meta
        total = len(head) + len(payload)
        with self._send_lock:
            sent = self._socket.sendmsg((head, payload))
            while sent < total:  # a signal or a full buffer may cut a message anywhere
                if sent < len(head):
                    sent += self._socket.send(memoryview(head)[sent:])
                else:
                    sent += self._socket.send(memoryview(payload)[sent - len(head) :])
        return total

    def receive(self) -> Frame | None:
        """Return the next frame's head, or None where the peer ended the stream between frames.

        Raises `ProtocolError` for anything that is no frame of this protocol.
        """
        if not self._fill(memoryview(self._head), may_end=True):
            return None
        kind, meta_bytes, payload_bytes, expected = _HEADER.unpack(self._head)
        if meta_bytes > MAX_META_BYTES or payload_bytes > MAX_STORED_BYTES:
            raise ProtocolError(f"a data frame claims {meta_bytes} + {payload_bytes} bytes")
        meta = bytearray(meta_bytes)
        self._fill(memoryview(meta))
        if _meta_checksum(kind, meta) != expected:
            raise ProtocolError("a data frame's checksum does not match")
        return Frame(kind, bytes(meta), payload_bytes)

    def payload_into(self, buffer: memoryview) -> None:
        """Fill `buffer`, exactly as long as the frame's payload. Raises `ProtocolError` when the peer is gone."""
        self._fill(buffer)

    def close(self) -> None:
        """Wake whoever blocks on this stream, and end it."""
        with contextlib.suppress(OSError):  # the peer was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _fill(self, view: memoryview, *, may_end: bool = False) -> bool:
        filled = 0
        while filled < len(view):
            try:
                # MSG_WAITALL: one system call per part, however often the sender's buffer ran empty meanwhile.
                count = self._socket.recv_into(view[filled:], 0, socket.MSG_WAITALL)
            except ConnectionError:
                count = 0
            if not count:
                if may_end and not filled:
                    return False
                raise ProtocolError("the other mover ended the data connection in the middle of a frame")
            filled += count
        return True


def _meta_checksum(kind: int, meta: bytes | bytearray) -> int:
    return checksum(bytes((kind,)) + meta)


def pack_ask(ask_id: int, digests: list[bytes]) -> bytes:
    return ASK_ID.pack(ask_id) + b"".join(digests)


def unpack_ask(meta: bytes) -> tuple[int, list[bytes]]:
    """Return (id, digests). Raises `ProtocolError`."""
    count, rest = divmod(len(meta) - ASK_ID.size, DIGEST_BYTES)
    if rest or not 0 < count <= MAX_ASK_DIGESTS:
        raise ProtocolError("a question is not made of digests")
    start = ASK_ID.size
    digests = [meta[i : i + DIGEST_BYTES] for i in range(start, start + count * DIGEST_BYTES, DIGEST_BYTES)]
    return ASK_ID.unpack_from(meta)[0], digests


def pack_answer(ask_id: int, status: bytes) -> bytes:
    return ASK_ID.pack(ask_id) + status


def unpack_answer(meta: bytes) -> tuple[int, bytes]:
    """Return (id, status bytes). Raises `ProtocolError`."""
    if len(meta) <= ASK_ID.size:
        raise ProtocolError("an answer is too short")
    return ASK_ID.unpack_from(meta)[0], meta[ASK_ID.size :]


def pack_block(row: Row) -> bytes:
    return pack_row(row, 0)


def unpack_block(meta: bytes, payload_bytes: int) -> Row:
    """Return the row. Raises `ProtocolError` or `FormatInvalid` where it cannot be true."""
    if len(meta) != ROW_BYTES:
        raise ProtocolError("a block's row has a wrong length")
    row, _ = unpack_row(meta)
    if row.stored_length != payload_bytes:
        raise ProtocolError("a block's row and its frame disagree about its length")
    return row


def pack_write(offset: int, payload: bytes | bytearray | memoryview) -> bytes:
    """Return the meta part of a WRITE: where the payload belongs in the disk, and its checksum."""
    return _RANGE.pack(offset, checksum(payload))


def pack_zero(offset: int, length: int) -> bytes:
    return _RANGE.pack(offset, length)


def unpack_range(meta: bytes) -> tuple[int, int]:
    """Return (offset, checksum of a WRITE or length of a ZERO). Raises `ProtocolError`."""
    if len(meta) != _RANGE.size:
        raise ProtocolError("a range has a wrong length")
    offset, value = _RANGE.unpack(meta)
    return offset, value


def pack_error(error: ErrorInfo) -> bytes:
    """Return a `REFUSED` frame's meta part; a long message is cut."""
    short = msgspec.structs.replace(error, message=error.message[:4096])
    return msgspec.msgpack.encode(short)
