"""A sink that a mover on another server has open: what is written goes there over the data connection."""

import contextlib
import threading
from typing import Final

import msgspec

from vbrcore.model.errors import ErrorInfo, MoverLost, ProtocolError, SinkWriteFailed, VbrError, error_from
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.mover import frames
from vbrcore.mover.frames import DataStream
from vbrcore.mover.meeting import Announcer, meet
from vbrcore.mover.messages import Endpoint
from vbrcore.mover.turns import Turns

_ORDERED: Final = b"\x01"


class FarWriter:
    """Raises what the sink mover says, `MoverLost` when it is gone, `PeerRefused` and others while they meet."""

    def __init__(self, endpoint: Endpoint, task_id: str, announcer: Announcer) -> None:
        self._lock = threading.Lock()  # guards who receives
        self._error: VbrError | None = None
        self._turns = Turns()
        self._stream = DataStream(meet(endpoint, announcer))
        try:
            hello = frames.Hello(frames.VERSION, task_id, endpoint.secret)
            self._send(frames.HELLO, msgspec.msgpack.encode(hello))
            self.ordered = self._answer(frames.WELCOME) == _ORDERED
        except VbrError:
            self._stream.close()
            raise

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Send the buffer, where the sink wants it in order: when its turn has come."""
        if self.ordered:
            self._turns.wait_for(offset)
        self._send(frames.WRITE, frames.pack_write(offset, buffer), buffer)
        self._turns.advance(len(buffer))

    def zero(self, offset: int, length: int) -> None:
        """Tell that a range is zeros, as `write_from`."""
        if self.ordered:
            self._turns.wait_for(offset)
        self._send(frames.ZERO, frames.pack_zero(offset, length))
        self._turns.advance(length)

    def finish(self) -> None:
        """Return when the sink has made everything durable."""
        self._send(frames.DONE)
        self._answer(frames.CONFIRMED)

    def close(self) -> None:
        self._turns.fail()
        self._stream.close()

    def _send(self, kind: int, meta: bytes = b"", payload: bytes | memoryview = b"") -> None:
        try:
            self._stream.send(kind, meta, payload)
        except OSError as error:
            self._turns.fail()
            with contextlib.suppress(OSError, ProtocolError):
                self._answer(frames.REFUSED)  # its reason says more than a broken pipe
            raise (self._error or MoverLost(f"the sink mover is gone: {error}")) from error

    def _answer(self, expected: int) -> bytes:
        """Return the meta part of the next frame, which must be of this kind."""
        with self._lock:
            if self._error is not None:
                raise self._error
            frame = self._stream.receive()
            if frame is None:
                raise MoverLost("the sink mover ended the connection")
            if frame.payload_bytes:
                raise ProtocolError("the sink mover sent data")
            if frame.kind == frames.REFUSED:
                self._error = SinkWriteFailed("the sink mover refused without saying why")
                with contextlib.suppress(*UNDECODABLE):
                    self._error = error_from(msgspec.msgpack.decode(frame.meta, type=ErrorInfo))
                raise self._error
            if frame.kind != expected:
                raise ProtocolError(f"the sink mover answered with frame {frame.kind} instead of {expected}")
            return frame.meta
