"""A source's connection to its target: questions, blocks, pages of the previous map, and the confirmation."""

import contextlib
import queue
import threading
from collections.abc import Callable

import msgspec

from vbrcore.backupfile.rows import Row
from vbrcore.model.errors import ErrorInfo, MoverLost, ProtocolError, VbrError, error_from
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.mover import frames
from vbrcore.mover.allowance import Allowance
from vbrcore.mover.frames import DataStream, Frame
from vbrcore.mover.meeting import Announcer, meet
from vbrcore.mover.messages import Endpoint

OnAnswer = Callable[[bytes], None]
_REASON_S = 2.0  # how long a failed send waits for the target's own words


class TargetLink:
    """Safe for several threads. After an error every call raises it, and `on_lost` was called once with it.

    `announcer` is told where the source has to listen for its target.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        task_id: str,
        on_lost: Callable[[VbrError], None],
        announcer: Announcer | None = None,
    ) -> None:
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._request_lock = threading.Lock()
        self._asked: dict[int, OnAnswer] = {}
        self._last_ask = 0
        self._replies: queue.SimpleQueue[tuple[Frame, bytes] | None] = queue.SimpleQueue()
        self._error: VbrError | None = None
        self._closing = False
        self.allowance = Allowance(endpoint.rate_bytes_s)
        self._stream = DataStream(meet(endpoint, announcer))
        self._receiver = threading.Thread(target=self._receive, name="answers", daemon=True)
        hello = frames.Hello(frames.VERSION, task_id, endpoint.secret)
        self._receiver.start()
        try:
            self._request(frames.HELLO, msgspec.msgpack.encode(hello), frames.WELCOME)
        except VbrError:
            self.close()
            raise

    def ask(self, digests: list[bytes], on_answer: OnAnswer) -> None:
        """Ask which of these are needed; `on_answer` is called on another thread and must not block."""
        with self._lock:
            self._last_ask = (self._last_ask + 1) % 2**32
            ask_id = self._last_ask
            self._asked[ask_id] = on_answer
        meta = frames.pack_ask(ask_id, digests)
        self.allowance(len(meta))
        self._send(frames.ASK, meta)

    def send_block(self, row: Row, stored: bytes | memoryview) -> int:
        """Send an extent; return the bytes that travelled. Blocks while the target is slow."""
        meta = frames.pack_block(row)
        self.allowance(frames.HEADER_BYTES + len(meta) + len(stored))
        return self._send(frames.BLOCK, meta, stored)

    def page(self, digest: bytes) -> bytes | None:
        """Return a page of the chain by its digest, or None where the target has no intact one."""
        reply, payload = self._request(frames.PAGE, digest, frames.PAGE_DATA)
        return payload if reply.meta == b"\x01" else None

    def done(self) -> None:
        """Return when the target has taken in everything that was sent."""
        self._request(frames.DONE, b"", frames.CONFIRMED)

    def close(self) -> None:
        self._closing = True
        self.allowance.end()
        self._stream.close()
        if self._receiver is not threading.current_thread():
            self._receiver.join()

    def _send(self, kind: int, meta: bytes, payload: bytes | memoryview = b"") -> int:
        if self._error is not None:
            raise self._error
        try:
            return self._stream.send(kind, meta, payload)
        except OSError as error:
            # Where the target refused, its reason is on the way and says more than a broken pipe.
            self._receiver.join(_REASON_S)
            raise (self._error or MoverLost(f"the target mover is gone: {error}")) from error

    def _request(self, kind: int, meta: bytes, expected: int) -> tuple[Frame, bytes]:
        with self._request_lock:
            self._send(kind, meta)
            reply = self._replies.get()
        if reply is None:
            self._replies.put(None)
            raise self._error or MoverLost("the target mover is gone")
        if reply[0].kind != expected:
            raise ProtocolError(f"the target mover answered with frame {reply[0].kind} instead of {expected}")
        return reply

    def _receive(self) -> None:
        error: VbrError
        try:
            while (frame := self._stream.receive()) is not None:
                self._take(frame)
            error = MoverLost("the target mover ended the connection")
        except OSError as problem:
            error = MoverLost(f"the target mover is gone: {problem}")
        except VbrError as problem:
            error = problem
        if self._error is None:
            self._error = error
        self._replies.put(None)
        self.allowance.end()
        if not self._closing:
            self._on_lost(self._error)

    def _take(self, frame: Frame) -> None:
        payload = bytearray(frame.payload_bytes)
        self._stream.payload_into(memoryview(payload))
        if frame.kind == frames.ANSWER:
            ask_id, status = frames.unpack_answer(frame.meta)
            with self._lock:
                on_answer = self._asked.pop(ask_id, None)
            if on_answer is None:
                raise ProtocolError(f"the target mover answered question {ask_id}, which is not open")
            on_answer(status)
        elif frame.kind == frames.REFUSED:
            with contextlib.suppress(*UNDECODABLE):
                raise error_from(msgspec.msgpack.decode(frame.meta, type=ErrorInfo))
            raise ProtocolError("the target mover refused without saying why")
        else:
            self._replies.put((frame, bytes(payload)))
