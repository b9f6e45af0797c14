"""The sink mover: opens a restore's sink on this server and writes what the mover beside the repository sends."""

import contextlib
import threading
from hmac import compare_digest
from typing import Final

import msgspec

from vbrcore.backupfile.codec import checksum
from vbrcore.backupfile.rows import MAX_RAW_BYTES
from vbrcore.model.errors import PermissionRefused, ProtocolError, VbrError, info_of
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.mover import frames
from vbrcore.mover.control import Control
from vbrcore.mover.follow import ToManager
from vbrcore.mover.frames import DataStream, Frame
from vbrcore.mover.halves import open_sink
from vbrcore.mover.meeting import meet
from vbrcore.mover.messages import Ended, Ready, SinkWork, Stop
from vbrcore.mover.workers import stopped
from vbrcore.plugins.mover import Writer

_FIRST_BUFFER_BYTES: Final = 1024 * 1024
_PATIENCE_S: Final = 110.0  # its sender has a process to start, a chain to open and a key to find


def run(control: Control) -> None:
    """Do the one piece of work that arrives. Raises what made it fail; nothing of worth remains then."""
    work = control.receive()
    if isinstance(work, Stop):
        raise stopped()
    if not isinstance(work, SinkWork):
        raise ProtocolError(f"a sink mover cannot do {type(work).__name__}")
    sink = open_sink(work.sink)
    try:
        control.send(Ready())
        stream = DataStream(meet(work.endpoint, ToManager(control, work.task_id), _PATIENCE_S))
        threading.Thread(target=_listen, args=(control, stream), name="stop", daemon=True).start()
        try:
            _FarDisk(stream, work, sink).take_in()
        except OSError as error:
            raise ProtocolError(f"the connection with the restore mover broke: {error}") from error
        except VbrError as error:
            with contextlib.suppress(OSError):
                stream.send(frames.REFUSED, frames.pack_error(info_of(error)))
            raise
        finally:
            stream.close()
    finally:
        sink.close()
    control.send(Ended())


def _listen(control: Control, stream: DataStream) -> None:
    while not isinstance(control.receive(), Stop):
        pass
    stream.close()


class _FarDisk:
    """One disk that comes over a data connection; it is whole only when the peer said so and the sink is durable."""

    def __init__(self, stream: DataStream, work: SinkWork, sink: Writer) -> None:
        self._stream = stream
        self._work = work
        self._sink = sink
        self._ordered = bool(getattr(sink, "ordered", False))
        self._position = 0
        self._buffer = bytearray(_FIRST_BUFFER_BYTES)

    def take_in(self) -> None:
        """Write until the peer has sent all. Raises `ProtocolError`, `PermissionRefused`, and what the sink says."""
        self._admit()
        while (frame := self._stream.receive()) is not None:
            if frame.kind == frames.WRITE:
                self._write(frame)
            elif frame.payload_bytes:
                raise ProtocolError(f"frame {frame.kind} must have no payload")
            elif frame.kind == frames.ZERO:
                offset, length = frames.unpack_range(frame.meta)
                self._check(offset, length)
                self._sink.zero(offset, length)
            elif frame.kind == frames.DONE:
                self._sink.finish()
                self._stream.send(frames.CONFIRMED)
                return
            else:
                raise ProtocolError(f"a restore mover sent frame {frame.kind}")
        raise ProtocolError("the restore mover ended the connection before all was sent")

    def _admit(self) -> None:
        frame = self._stream.receive()
        if frame is None or frame.kind != frames.HELLO or frame.payload_bytes:
            raise ProtocolError("a restore mover did not say who it is")
        try:
            hello = msgspec.msgpack.decode(frame.meta, type=frames.Hello)
        except UNDECODABLE as error:
            raise ProtocolError(f"a restore mover's first frame cannot be read: {error}") from error
        known = hello.task_id == self._work.task_id and compare_digest(hello.secret, self._work.endpoint.secret)
        if hello.version != frames.VERSION or not known:
            raise PermissionRefused("this attempt of the task is not expected")
        self._stream.send(frames.WELCOME, bytes((self._ordered,)))

    def _write(self, frame: Frame) -> None:
        offset, expected = frames.unpack_range(frame.meta)
        if frame.payload_bytes > MAX_RAW_BYTES:
            raise ProtocolError(f"a restore mover sent {frame.payload_bytes} bytes at once")
        self._check(offset, frame.payload_bytes)
        if frame.payload_bytes > len(self._buffer):
            self._buffer = bytearray(frame.payload_bytes)
        content = memoryview(self._buffer)[: frame.payload_bytes]
        self._stream.payload_into(content)
        if checksum(content) != expected:
            raise ProtocolError("what a restore mover sent does not match its checksum")
        self._sink.write_from(offset, content)

    def _check(self, offset: int, length: int) -> None:
        """Raise `ProtocolError` for what lies outside the disk, or out of order where the sink wants it in order."""
        if offset + length > self._work.sink.size_bytes or (self._ordered and offset != self._position):
            raise ProtocolError(f"a restore mover sent {length} bytes for {offset}, which is not where they belong")
        self._position = offset + length
