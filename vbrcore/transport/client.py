"""The manager's side of a transport: start it, have movers started, talk to them, lose neither quietly."""

import asyncio
import contextlib
import sys
import time
from typing import Self, TypedDict

import msgspec

from vbrcore.model.errors import MoverLost, ProtocolError, TransportLost, VbrError
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.liveness import Liveness
from vbrcore.model.times import Timing
from vbrcore.mover import messages as mover
from vbrcore.mover.control import frame_of
from vbrcore.transport.bundle import Bundles
from vbrcore.transport.frames import read_frame
from vbrcore.transport.messages import (
    PROTOCOL,
    PROTOCOLS,
    Farewell,
    FromMover,
    FromTransport,
    Hello,
    KillMover,
    LeftLog,
    LogTaken,
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
from vbrcore.transport.remote import start_remote
from vbrcore.transport.ssh import SshConnection
from vbrcore.transport.streams import ChildStream, SshStream, Stream

_CLOSE_S = 10.0


class Said(TypedDict):
    """Who said a log line and when, by this machine's clock."""

    kind: str
    pid: int
    server: str
    at: float


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

    @property
    def cache_directory(self) -> str:
        """Where the mover's server keeps what can be made anew; "": it is this machine."""
        return self._client.hello.cache_directory

    def said(self, at: float) -> Said:
        """Return what stands in a log line of this mover that it said at this time of its own clock."""
        client = self._client
        server = "" if client.server == LOCAL_SERVER else client.server
        return {"kind": "mover", "pid": self.pid, "server": server, "at": at - client.clock_offset_s}

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
    """A running transport. Start it from a thread that lives as long as the process: it ends with that thread.

    After the start `hello` says who it is, `clock_offset_s` by how much its clock is ahead of ours, and `left_logs`
    gives the last lines of movers that were cut off there; `forget_log` removes them when they are kept here.
    """

    def __init__(self, timing: Timing | None = None, *, server: str = LOCAL_SERVER) -> None:
        self.encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(mover.FromMover)
        self.server = server
        self.hello = Hello(PROTOCOL, "", "", 0, 0, "")
        self.clock_offset_s = 0.0
        self.left_logs: asyncio.Queue[LeftLog] = asyncio.Queue()
        self.stats: tuple[ProcessStats, ...] = ()
        self._timing = timing or Timing()
        self._movers: dict[int, MoverHandle] = {}
        self._last_mover_id = 0
        self._lost: VbrError | None = None
        self._closing = False
        self._liveness = Liveness(self._timing.silence_s)
        self._duties: list[asyncio.Task[None]] = []
        self._stream: Stream | None = None
        self._greeted: asyncio.Future[None] | None = None
        self._ponged: asyncio.Future[float] | None = None

    @property
    def lost(self) -> VbrError | None:
        """Why nothing can be started here any more; None while it runs."""
        return self._lost

    @property
    def pid(self) -> int:
        """The process id of the transport, on its own server."""
        return self.hello.pid

    async def start_local(self, job_id: str, session_id: str) -> None:
        """Start a transport as a child on this machine. Raises `TransportLost`."""
        command = [sys.executable, "-m", "vbrcore", *self._words(job_id, session_id)]
        await self.attach(await ChildStream.start(command))

    async def start_remote(self, connection: SshConnection, bundles: Bundles, job_id: str, session_id: str) -> bool:
        """Start a transport at the end of a connection, which becomes its own. Return whether the bundle was sent.

        Raises `ServerUnreachable`, `ServerUnsuitable`, `WheelsMissing`, `TransportLost`, `ProtocolError`.
        """
        try:
            program, sent = await start_remote(connection, bundles, self._words(job_id, session_id))
        except BaseException:
            await connection.close()
            raise
        await self.attach(SshStream(connection, program))
        return sent

    def _words(self, job_id: str, session_id: str) -> tuple[str, ...]:
        words = ("transport", "--stdio", "--job-id", job_id, "--session-id", session_id)
        return (*words, "--server", self.server, "--timing", self._timing.argument())

    async def attach(self, stream: Stream) -> None:
        """Take a stream at whose other end a transport starts; return when it has said who it is.

        Raises `TransportLost`, `ProtocolError` where it is of a version that cannot be understood.
        """
        loop = asyncio.get_running_loop()
        self._stream, self._greeted, self._ponged = stream, loop.create_future(), loop.create_future()
        self._liveness = Liveness(self._timing.silence_s)
        self._duties = [asyncio.create_task(self._listen(stream)), asyncio.create_task(self._ping(stream))]
        try:
            await self._greeted
            sent = time.time()
            await self.send(Ping())
            clock = await self._ponged
            self.clock_offset_s = clock - (sent + time.time()) / 2
        except BaseException:
            await self.close()
            raise

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
        """Send a message to the transport itself. Raises why it is lost: `TransportLost`, `ServerUnreachable`."""
        if self._lost is not None or self._stream is None:
            raise self._lost or TransportLost("the transport was not started")
        try:
            self._stream.write(frame_of(self.encoder.encode(message)))
            await self._stream.drain()
        except ConnectionError as error:
            self._lose("is gone")
            raise TransportLost(f"{self._name} is gone") from error

    async def forget_log(self, name: str) -> None:
        """Have a log removed there that is kept here now. Raises `TransportLost`."""
        await self.send(LogTaken(name))

    async def close(self) -> None:
        """End the transport and with it all its movers; wait until they are gone. Idempotent."""
        self._closing = True
        if self._stream is None:
            return
        if self._lost is None:
            with contextlib.suppress(TransportLost, TimeoutError):
                await asyncio.wait_for(self.send(Farewell()), _CLOSE_S)
        await self._stream.end(_CLOSE_S)
        for duty in self._duties:
            duty.cancel()
        await asyncio.gather(*self._duties, return_exceptions=True)
        self._lose("was closed")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _listen(self, stream: Stream) -> None:
        decoder = msgspec.msgpack.Decoder(FromTransport)
        try:
            while (body := await read_frame(stream)) is not None:
                self._liveness.heard()
                self._on_message(decoder.decode(body))
        except (ProtocolError, *UNDECODABLE) as error:
            self._lose(f"sent what cannot be understood: {error}")
            return
        self._lose("is gone")

    def _on_message(self, message: FromTransport) -> None:
        match message:
            case Hello():
                self._on_hello(message)
            case LeftLog():
                self.left_logs.put_nowait(message)
            case Stats():
                self.stats = message.processes
            case Pong(clock=clock):
                if self._ponged is not None and not self._ponged.done():
                    self._ponged.set_result(clock)
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

    def _on_hello(self, hello: Hello) -> None:
        if hello.protocol not in PROTOCOLS:
            raise ProtocolError(f"protocol {hello.protocol} of vbrcore {hello.version}, this one talks {PROTOCOLS}")
        self.hello = hello
        if self._greeted is not None and not self._greeted.done():
            self._greeted.set_result(None)

    async def _ping(self, stream: Stream) -> None:
        while not self._liveness.cut_off:
            # Not `send`: a transport that reads nothing must not keep us from seeing that it says nothing.
            stream.write(frame_of(self.encoder.encode(Ping())))
            await asyncio.sleep(min(self._timing.heartbeat_s, self._timing.silence_s / 4))
        self._lose(f"was silent for {self._timing.silence_s:g} s")

    @property
    def _name(self) -> str:
        return "the transport" if self.server == LOCAL_SERVER else f"the transport on server {self.server}"

    def _lose(self, why: str) -> None:
        """Fail everything that waits, and make sure that a transport on this machine really is gone."""
        if self._lost is not None:
            return
        words = self._stream.words if self._stream is not None else ""
        self._lost = TransportLost(f"{self._name} {why}" + (f": {words}" if words else ""))
        if self._stream is not None and not self._closing:
            self._stream.kill()
        for handle in self._movers.values():
            handle.on_lost(self._lost)
        self._movers.clear()
        for waiting in (self._greeted, self._ponged):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._lost)
                waiting.exception()  # marks it as seen: nobody may be waiting for it
