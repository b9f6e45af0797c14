"""The control stream of a mover: its own stdin and stdout, moved away so that nothing else can write to it.

A frame is a 4-byte big-endian length and a MessagePack body of at most 16 MiB. An empty frame is a heartbeat.
"""

import contextlib
import os
import queue
import threading
import time
from io import FileIO, RawIOBase
from typing import Literal

import msgspec

from vbrcore.model.errors import ProtocolError
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.liveness import Liveness
from vbrcore.model.times import Timing
from vbrcore.mover.keptlogs import KeptLog
from vbrcore.mover.messages import FromMover, Log, ToMover

LENGTH_BYTES = 4
MAX_FRAME_BYTES = 16 * 1024 * 1024
CUT_OFF_EXIT_CODE = 75  # what a mover ends itself with when nobody is there any more


def frame_length(header: bytes) -> int:
    """Read a frame's length. Raises `ProtocolError` before any memory is taken for one that is too long."""
    length = int.from_bytes(header, "big")
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a control frame of {length} bytes is longer than {MAX_FRAME_BYTES}")
    return length


def frame_of(body: bytes) -> bytes:
    """Return the body with its length before it. Raises `ProtocolError` if it is too long."""
    if len(body) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {len(body)} bytes does not fit a control frame")
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def read_frame(stream: RawIOBase) -> bytes | None:
    """Return the next body, or None at the end of the stream (also in the middle of a frame)."""
    header = _read_exactly(stream, LENGTH_BYTES)
    return None if header is None else _read_exactly(stream, frame_length(header))


def _read_exactly(stream: RawIOBase, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        part = stream.read(length - len(data))
        if not part:
            return None
        data += part
    return bytes(data)


class Control:
    """Both directions of the control stream, with heartbeats and the fence. One per process."""

    def __init__(self, timing: Timing, kept_log: KeptLog | None = None) -> None:
        self._timing = timing
        self._kept_log = kept_log
        self._liveness = Liveness(timing.silence_s)
        # Unbuffered: the end of the interpreter must not wait for the lock of a buffer that a thread reads into.
        self._input = FileIO(os.dup(0))
        self._output_fd = os.dup(1)
        self._lock = threading.Lock()
        self._encoder = msgspec.msgpack.Encoder()
        self._inbox: queue.SimpleQueue[ToMover] = queue.SimpleQueue()
        # A stray print or a child that reads its stdin must not touch the stream.
        null_fd = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null_fd, 0)
        os.close(null_fd)
        os.dup2(2, 1)

    def start(self) -> None:
        """Begin to listen, to say that we live, and to watch for the end of the other side."""
        for work in (self._listen, self._beat, self._watch):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def receive(self, timeout_s: float | None = None) -> ToMover | None:
        """Return the next message, or None after `timeout_s`."""
        with contextlib.suppress(queue.Empty):
            return self._inbox.get(timeout=timeout_s)
        return None

    def send(self, message: FromMover) -> None:
        self._write(frame_of(self._encoder.encode(message)))

    def log(self, level: Literal["debug", "info", "warning", "error"], message: str) -> None:
        line = Log(time.time(), level, message)
        if self._kept_log is not None:
            with self._lock:
                self._kept_log.add(msgspec.json.encode(line) + b"\n")
        self.send(line)

    def fence(self) -> None:
        """Return only while this process may still act; called right before everything that changes storage."""
        if self._liveness.cut_off:
            _end("cut off from its transport: nothing is written any more")

    def _listen(self) -> None:
        decoder = msgspec.msgpack.Decoder(ToMover)
        try:
            while (body := read_frame(self._input)) is not None:
                self._liveness.heard()
                if body:
                    self._inbox.put(decoder.decode(body))
        except (OSError, ProtocolError, *UNDECODABLE) as error:
            _end(f"control stream: {error}")
        self._liveness.end()
        _end("its transport is gone")

    def _beat(self) -> None:
        while True:
            self._write(frame_of(b""))
            time.sleep(self._timing.heartbeat_s)

    def _watch(self) -> None:
        # Sleeps and looks, and takes no lock, so that no other thread can keep it from ending the process.
        while not self._liveness.cut_off:
            time.sleep(min(1.0, self._timing.silence_s / 10))
        _end(f"heard nothing from its transport for {self._timing.silence_s:g} s")

    def _write(self, frame: bytes) -> None:
        view = memoryview(frame)
        try:
            with self._lock:
                while view:
                    view = view[os.write(self._output_fd, view) :]
        except OSError as error:
            _end(f"control stream: {error}")


def _end(reason: str) -> None:
    """End this process at once: no handler, no flush, no unlock may still change anything."""
    with contextlib.suppress(OSError):
        os.write(2, f"mover {os.getpid()} ends itself: {reason}\n".encode())
    os._exit(CUT_OFF_EXIT_CODE)
