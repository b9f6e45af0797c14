"""The transport: starts movers on its server, relays their control streams, watches them and ends them.

`python -m vbrcore transport --stdio --job-id J --session-id S --server NAME`. Nothing here outlives its peer: at the
end of its stdin, or after a silence of 30 s, the transport kills its movers and ends.
"""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Sequence

import msgspec

from vbrcore import __version__
from vbrcore.model.errors import ProtocolError, UsageError
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.liveness import Liveness
from vbrcore.model.times import Timing, timing_from
from vbrcore.mover.keptlogs import forget_log, left_logs
from vbrcore.mover.process import die_with_parent, parse_options
from vbrcore.transport.children import Child, Place
from vbrcore.transport.frames import pipe_reader, pipe_writer, read_frame, write_frame
from vbrcore.transport.messages import (
    PROTOCOL,
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
    StartMover,
    Stats,
    ToMover,
    ToTransport,
)
from vbrcore.transport.stats import StatsSampler

STATS_PERIOD_S = 1.0


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The command line."""

    job_id: str
    session_id: str
    server: str = "local"
    stdio: bool = True
    parent_pid: str = ""
    timing: str = ""
    bundle: str = ""
    cache: str = ""


class Server:
    """One transport. `run` serves one manager until it is gone."""

    def __init__(
        self, timing: Timing, place: Place, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._timing = timing
        self._place = place
        self._reader = reader
        self._writer = writer
        self._peer = Liveness(timing.silence_s)
        self._children: dict[int, Child] = {}
        self._relays: set[asyncio.Task[None]] = set()
        self._broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._encoder = msgspec.msgpack.Encoder()
        self._farewell = False

    async def run(self) -> None:
        """Serve until the peer is gone or silent; then no mover is left."""
        duties = [asyncio.create_task(work()) for work in (self._serve, self._watch, self._sample)]
        try:
            done, _ = await asyncio.wait((*duties, self._broken), return_when=asyncio.FIRST_COMPLETED)
            for duty in done:
                duty.result()
        finally:
            for task in (*duties, *self._relays):
                task.cancel()
            for child in self._children.values():
                child.kill("its transport ended")
            await asyncio.gather(*duties, *self._relays, return_exceptions=True)
            for child in self._children.values():
                self._dismiss(child)

    def _dismiss(self, child: Child) -> None:
        """Give up a mover that has no manager any more: its log goes with it only where that was meant."""
        if self._farewell and child.log is not None:
            child.log.remove()
        else:
            child.keep_log()

    async def _greet(self) -> None:
        await self._send(
            Hello(
                protocol=PROTOCOL,
                version=__version__,
                python=sys.version.split()[0],
                pid=os.getpid(),
                cores=len(os.sched_getaffinity(0)),
                cache_directory=self._place.cache,
            )
        )
        if self._place.cache:
            for name, data in left_logs(self._place.log_directory):
                await self._send(LeftLog(name, data))

    async def _serve(self) -> None:
        await self._greet()
        decoder = msgspec.msgpack.Decoder(ToTransport)
        while (body := await read_frame(self._reader)) is not None:
            self._peer.heard()
            if self._peer.cut_off:
                return
            try:
                message = decoder.decode(body)
            except UNDECODABLE as error:
                raise ProtocolError(f"a manager sent what cannot be understood: {error}") from error
            await self._do(message)

    async def _do(self, message: ToTransport) -> None:
        match message:
            case Ping():
                await self._send(Pong(time.time()))
            case Farewell():
                self._farewell = True
            case LogTaken(name=name):
                forget_log(self._place.log_directory, name)
            case StartMover():
                await self._start(message)
            case ToMover() if child := self._children.get(message.mover_id):
                child.write(bytes(message.body))
            case KillMover() if child := self._children.get(message.mover_id):
                child.kill("ended by its manager")
            case _:
                pass  # for a mover that has just ended: its `MoverExited` is on the way

    async def _start(self, message: StartMover) -> None:
        if message.mover_id in self._children:
            raise ProtocolError(f"mover {message.mover_id} was started twice")
        try:
            child = await Child.start(message, self._timing, self._place)
        except OSError as error:
            await self._send(MoverExited(message.mover_id, -1, reason=f"cannot be started: {error}"))
            return
        self._children[message.mover_id] = child
        await self._send(MoverStarted(message.mover_id, child.pid))
        relay = asyncio.create_task(self._relay(message.mover_id, child))
        self._relays.add(relay)
        relay.add_done_callback(self._on_relay_done)

    def _on_relay_done(self, relay: asyncio.Task[None]) -> None:
        """End the transport rather than keep a manager waiting for a mover that nobody listens to any more."""
        self._relays.discard(relay)
        error = None if relay.cancelled() else relay.exception()
        if error is not None and not self._broken.done():
            self._broken.set_exception(error)

    async def _relay(self, mover_id: int, child: Child) -> None:
        async for body in child.messages():
            await self._send(FromMover(mover_id, msgspec.Raw(body)))
        returncode = await child.ended()
        await self._send(MoverExited(mover_id, returncode, child.stderr_tail, child.reason))
        del self._children[mover_id]
        if child.log is not None:
            child.log.remove()

    async def _watch(self) -> None:
        """Return when the peer is cut off; kill movers that are; say to movers that we live."""
        beat_due = 0.0
        step_s = min(1.0, self._timing.heartbeat_s / 2)
        while not self._peer.cut_off:
            beat_due -= step_s
            for child in self._children.values():
                if child.cut_off:
                    child.kill(f"said nothing for {self._timing.silence_s:g} s and was killed")
                elif beat_due <= 0:
                    child.write(b"")
            if beat_due <= 0:
                beat_due = self._timing.heartbeat_s
            await asyncio.sleep(step_s)

    async def _sample(self) -> None:
        sampler = StatsSampler()
        while True:
            await asyncio.sleep(STATS_PERIOD_S)
            await self._send(Stats(sampler.sample(self._children.values())))

    async def _send(self, message: FromTransport) -> None:
        await write_frame(self._writer, self._encoder.encode(message))


async def _serve_stdio(timing: Timing, place: Place) -> None:
    """Take stdin and stdout as the stream to the manager, moved away from what a stray print could reach."""
    stdin, stdout = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    null_fd = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null_fd, 0)
    os.close(null_fd)
    os.dup2(2, 1)
    writer = await pipe_writer(stdout)
    try:
        await Server(timing, place, await pipe_reader(stdin), writer).run()
    except (ConnectionError, msgspec.MsgspecError, ProtocolError) as error:
        print(f"transport: {error}", file=sys.stderr)  # noqa: T201 - stderr is what the manager keeps of us
        raise
    finally:
        writer.transport.abort()


def main(argv: Sequence[str]) -> int:
    """Run a transport; return its exit code."""
    try:
        options = parse_options(argv, Options)
        timing = timing_from(options.timing)
    except (UsageError, ValueError) as error:
        print(f"transport: {error}", file=sys.stderr)  # noqa: T201
        return UsageError.exit_code
    if options.parent_pid:
        die_with_parent(int(options.parent_pid))
    with contextlib.suppress(ConnectionError):
        try:
            asyncio.run(_serve_stdio(timing, Place(options.bundle, options.cache)))
        except (msgspec.MsgspecError, ProtocolError):
            return ProtocolError.exit_code
    return 0
