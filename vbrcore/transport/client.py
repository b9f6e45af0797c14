"""The manager's side of a transport: start it, have movers started, talk to them, lose neither quietly."""

import asyncio
import contextlib
import os
import subprocess
import sys
from typing import Self

import msgspec

from vbrcore.model.errors import MoverLost, ProtocolError, TransportLost, VbrError
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.liveness import Liveness
from vbrcore.model.times import Timing
from vbrcore.mover import messages as mover
from vbrcore.mover.control import frame_of
from vbrcore.transport.frames import pipe_reader, pipe_writer, read_frame, write_frame
from vbrcore.transport.messages import (
    FromMover,
    FromTransport,
    KillMover,
    MoverExited,
    MoverStarted,
    Ping,
    Pong,
    ProcessStats,
    Role,
    StartMover,
    Stats,
    ToMover,
    ToTransport,
)

_CLOSE_S = 10.0


class MoverHandle:
    """One mover. Messages arrive in order; after the last one `receive` says why there are no more."""

    def __init__(self, client: "TransportClient", mover_id: int, name: str) -> None:
        self.pid = 0
        self.returncode: int | None = None
        self._client = client
        self._mover_id = mover_id
        self._name = name
        self._inbox: asyncio.Queue[mover.FromMover | VbrError] = asyncio.Queue()
        self._lost: VbrError | None = None
        self._started = asyncio.Event()

    async def send(self, message: mover.ToMover) -> None:
        """Send a message. Raises `MoverLost` or `TransportLost`."""
        if self._lost is not None:
            raise self._lost
        await self._client.send(ToMover(self._mover_id, msgspec.Raw(self._client.encoder.encode(message))))

    async def receive(self) -> mover.FromMover:
        """Return the mover's next message. Raises `MoverLost` when it is gone, `TransportLost` when all are."""
        if self._lost is not None and self._inbox.empty():
            raise self._lost
        message = await self._inbox.get()
        if isinstance(message, VbrError):
            raise message
        return message

    async def kill(self) -> None:
        """Have the mover killed (SIGKILL); `receive` then raises `MoverLost`. Does nothing once it is gone."""
        if self._lost is None:
            with contextlib.suppress(TransportLost):
                await self._client.send(KillMover(self._mover_id))

    async def started(self) -> None:
        await self._started.wait()
        if not self.pid and self._lost is not None:
            raise self._lost

    def on_started(self, pid: int) -> None:
        self.pid = pid
        self._started.set()

    def on_message(self, message: mover.FromMover) -> None:
        self._inbox.put_nowait(message)

    def on_exited(self, message: MoverExited) -> None:
        self.returncode = message.returncode
        why = message.reason or f"ended with code {message.returncode}"
        tail = message.stderr.strip()
        self.on_lost(MoverLost(f"{self._name}: {why}" + (f": {tail}" if tail else "")))

    def on_lost(self, error: VbrError) -> None:
        self._lost = error
        self._inbox.put_nowait(error)
        self._started.set()


class TransportClient:
    """A running transport. Start it from a thread that lives as long as the process: it ends with that thread."""

    def __init__(self, timing: Timing | None = None) -> None:
        self.encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(mover.FromMover)
        self.pid = 0
        self.stats: tuple[ProcessStats, ...] = ()
        self._timing = timing or Timing()
        self._movers: dict[int, MoverHandle] = {}
        self._last_mover_id = 0
        self._lost: TransportLost | None = None
        self._closing = False
        self._liveness = Liveness(self._timing.silence_s)
        self._duties: list[asyncio.Task[None]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def lost(self) -> TransportLost | None:
        """Why nothing can be started here any more; None while it runs."""
        return self._lost

    async def start_local(self, job_id: str, session_id: str) -> None:
        """Start a transport as a child on this machine. Raises `TransportLost`."""
        command = [sys.executable, "-m", "vbrcore", "transport", "--stdio", "--job-id", job_id]
        command += ["--session-id", session_id, "--server", "local", "--timing", self._timing.argument()]
        command += ["--parent-pid", str(os.getpid())]
        pipe = subprocess.PIPE
        try:
            # A session of its own: Ctrl-C at a terminal is for the client of the service, not for us.
            # Blocks for the millisecond of a vfork; asyncio's own form would need a thread per child to see its end.
            process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, start_new_session=True)  # noqa: ASYNC220
        except OSError as error:
            raise TransportLost(f"the transport cannot be started: {error}") from error
        self._process, self.pid = process, process.pid
        self._writer = await pipe_writer(process.stdin)
        reader = await pipe_reader(process.stdout)
        self._liveness = Liveness(self._timing.silence_s)
        self._duties = [asyncio.create_task(self._listen(reader)), asyncio.create_task(self._ping())]

    async def start_mover(self, role: Role, job_id: str, session_id: str, task_id: str, disk: str) -> MoverHandle:
        """Have a mover started; return when it runs. Raises `MoverLost`, `TransportLost`."""
        self._last_mover_id += 1
        name = f"{role} mover {disk}".rstrip()
        handle = MoverHandle(self, self._last_mover_id, name)
        self._movers[self._last_mover_id] = handle
        await self.send(StartMover(self._last_mover_id, role, job_id, session_id, task_id, disk))
        await handle.started()
        return handle

    async def send(self, message: ToTransport) -> None:
        """Send a message to the transport itself. Raises `TransportLost`."""
        if self._lost is not None or self._writer is None:
            raise self._lost or TransportLost("the transport was not started")
        try:
            await write_frame(self._writer, self.encoder.encode(message))
        except ConnectionError as error:
            self._lose("is gone")
            raise TransportLost("the transport is gone") from error

    async def close(self) -> None:
        """End the transport and with it all its movers; wait until they are gone. Idempotent."""
        self._closing = True
        if self._process is None or self._writer is None:
            return
        if not self._writer.is_closing():
            self._writer.transport.abort()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._process.wait), _CLOSE_S)
        except TimeoutError:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        self._lose("was closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        decoder = msgspec.msgpack.Decoder(FromTransport)
        try:
            while (body := await read_frame(reader)) is not None:
                self._liveness.heard()
                self._on_message(decoder.decode(body))
        except (ProtocolError, *UNDECODABLE) as error:
            self._lose(f"sent what cannot be understood: {error}")
            return
        self._lose("is gone")

    def _on_message(self, message: FromTransport) -> None:
        match message:
            case Stats():
                self.stats = message.processes
            case Pong():
                pass
            case MoverStarted():
                self._mover(message.mover_id).on_started(message.pid)
            case FromMover():
                self._mover(message.mover_id).on_message(self._decoder.decode(message.body))
            case MoverExited():
                self._mover(message.mover_id).on_exited(message)
                del self._movers[message.mover_id]

    def _mover(self, mover_id: int) -> MoverHandle:
        handle = self._movers.get(mover_id)
        if handle is None:
            raise ProtocolError(f"there is no mover {mover_id}")
        return handle

    async def _ping(self) -> None:
        while not self._liveness.cut_off:
            if self._writer is not None and not self._writer.is_closing():
                # Not `send`: a transport that reads nothing must not keep us from seeing that it says nothing.
                self._writer.write(frame_of(self.encoder.encode(Ping())))
            await asyncio.sleep(min(self._timing.heartbeat_s, self._timing.silence_s / 4))
        self._lose(f"was silent for {self._timing.silence_s:g} s")

    def _lose(self, why: str) -> None:
        """Fail everything that waits, and make sure that a transport on this machine really is gone."""
        if self._lost is not None:
            return
        self._lost = TransportLost(f"the transport {why}")
        if self._process is not None and not self._closing:
            self._process.kill()
        for handle in self._movers.values():
            handle.on_lost(self._lost)
        self._movers.clear()
