"""One mover as a child process of the transport: its pipes, its life and its end."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import msgspec

from vbrcore.model.errors import ProtocolError
from vbrcore.model.liveness import Liveness
from vbrcore.model.times import Timing
from vbrcore.mover.control import frame_of
from vbrcore.mover.keptlogs import KeptLog, log_name
from vbrcore.mover.messages import Log
from vbrcore.transport.frames import pipe_reader, pipe_writer, read_frame
from vbrcore.transport.messages import StartMover

STDERR_TAIL_BYTES = 8 * 1024
MAX_UNREAD_BYTES = 64 * 1024 * 1024
_GRACE_S = 2.0  # for what a dead mover's own children may still hold of its stderr


class Place(msgspec.Struct, frozen=True):
    """Where a transport runs. `bundle`: the directory it was started from; `cache`: beside it, what is kept there.

    Both are empty on the manager's machine, where vbrcore is installed.
    """

    bundle: str = ""
    cache: str = ""

    def program(self) -> list[str]:
        """Return the command line that starts vbrcore's processes as this one was started."""
        return [sys.executable, *(("-I", "-S", self.bundle) if self.bundle else ("-m", "vbrcore"))]

    @property
    def log_directory(self) -> Path:
        return Path(self.cache) / "log"

    def log_for(self, spec: StartMover) -> KeptLog | None:
        """Return the file in which a mover's last lines are kept; None: its manager is here. Raises OSError."""
        if not self.cache:
            return None
        return KeptLog(self.log_directory / log_name(spec.job_id, spec.session_id, os.getpid(), spec.mover_id))


class Child:
    """A running mover. It leads a process group of its own, so that its helpers end with it."""

    def __init__(
        self,
        spec: StartMover,
        process: subprocess.Popen[bytes],
        silence_s: float,
        writer: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
    ) -> None:
        self.spec = spec
        self.log: KeptLog | None = None
        self.reason = ""
        self._process = process
        self._liveness = Liveness(silence_s)
        self._writer = writer
        self._reader = reader
        self._stderr = bytearray()
        loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int] = loop.create_future()
        # The descriptor tells the end while the process is still a zombie, so that its group's number is still its own.
        self._pid_fd = os.pidfd_open(process.pid)
        loop.add_reader(self._pid_fd, self._on_exit)
        self._stderr_task: asyncio.Task[None] | None = None

    @classmethod
    async def start(cls, spec: StartMover, timing: Timing, place: Place) -> Self:
        """Start the process. Raises OSError."""
        log = place.log_for(spec)
        command = [*place.program(), "mover"]
        for name in ("role", "job_id", "session_id", "task_id", "disk"):
            command += [f"--{name.replace('_', '-')}", getattr(spec, name)]
        command += ["--parent-pid", str(os.getpid()), "--timing", timing.argument()]
        if log is not None:
            command += ["--log", str(log.path)]
        pipe = subprocess.PIPE
        # Blocks for the millisecond of a vfork; asyncio's own form would need a thread per child to see its end.
        process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, process_group=0)  # noqa: ASYNC220
        child = cls(
            spec, process, timing.silence_s, await pipe_writer(process.stdin), await pipe_reader(process.stdout)
        )
        child.log = log
        child._stderr_task = asyncio.create_task(child._keep_stderr(await pipe_reader(process.stderr)))
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def cut_off(self) -> bool:
        return self._liveness.cut_off

    @property
    def stderr_tail(self) -> str:
        return self._stderr.decode("utf-8", "replace")

    def write(self, body: bytes) -> None:
        """Send one body (empty: a heartbeat). A mover that reads nothing for long is killed, not waited for."""
        if self._writer.is_closing():
            return
        self._writer.write(frame_of(body))
        if self._writer.transport.get_write_buffer_size() > MAX_UNREAD_BYTES:
            self.kill("did not read what it was told")

    async def messages(self) -> AsyncIterator[bytes]:
        """Yield what the mover says, without heartbeats, until it is gone."""
        try:
            while (body := await read_frame(self._reader)) is not None:
                self._liveness.heard()
                if body:
                    yield body
        except ProtocolError as error:
            self.kill(str(error))

    def keep_log(self) -> None:
        """Nobody was there to be told of its end: leave its last lines, with what it printed, where they lie."""
        if self.log is not None:
            words = f"{self.reason or 'its manager was gone when it ended'}: {self.stderr_tail}".rstrip(": \n")
            self.log.add(msgspec.json.encode(Log(time.time(), "error", words)) + b"\n")
            self.log.close()

    def kill(self, reason: str) -> None:
        """End the mover and what it started, at once. SIGKILL also ends a stopped process."""
        if not self._exit.done():
            self.reason = self.reason or reason
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    async def ended(self) -> int:
        """Wait for the end of the process and give everything back; return its exit code."""
        # Its stream has ended, so the process is ending too; one that closed its stream and lives on is killed.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._exit), _GRACE_S)
        self.kill("closed its control stream")
        returncode = await self._exit
        if self._stderr_task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stderr_task, _GRACE_S)
        if not self._writer.is_closing():  # it closes itself when the other end is gone
            self._writer.transport.abort()
        return returncode

    def _on_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pid_fd)
        os.close(self._pid_fd)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)  # its helpers; the zombie itself does not mind
        self._exit.set_result(self._process.wait())

    async def _keep_stderr(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(STDERR_TAIL_BYTES):
            self._stderr += data
            del self._stderr[:-STDERR_TAIL_BYTES]
