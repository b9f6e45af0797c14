"""The manager's end of the stream to a transport: a child of this process, or a program reached over SSH."""

import asyncio
import os
import subprocess
from typing import Protocol, Self

from vbrcore.model.errors import TransportLost
from vbrcore.transport.frames import pipe_reader, pipe_writer
from vbrcore.transport.ssh import SshConnection, SshProgram


class Stream(Protocol):
    """Bytes in both directions, and the life of the process at the other end."""

    async def readexactly(self, count: int, /) -> bytes:
        """Raise `asyncio.IncompleteReadError` at the end of the stream."""

    def write(self, data: bytes, /) -> None:
        """Send without waiting; without effect once the stream is closing."""

    async def drain(self) -> None:
        """Wait while the other end is slow. Raises `ConnectionError` when it is gone."""

    @property
    def words(self) -> str:
        """What it printed last, for people."""

    async def end(self, timeout_s: float) -> None:
        """Close the stream and wait until the transport is gone; make it gone where it does not go by itself."""

    def kill(self) -> None:
        """Have it gone at once, as far as that is in our power."""


class ChildStream:
    """A transport as a child of this process."""

    def __init__(
        self, process: subprocess.Popen[bytes], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.words = ""  # its stderr is ours

    @classmethod
    async def start(cls, command: list[str]) -> Self:
        """Start the process. Raises `TransportLost`."""
        pipe = subprocess.PIPE
        command = [*command, "--parent-pid", str(os.getpid())]
        try:
            # A session of its own: Ctrl-C at a terminal is for the client of the service, not for us.
            # Blocks for the millisecond of a vfork; asyncio's own form would need a thread per child to see its end.
            process = subprocess.Popen(command, bufsize=0, stdin=pipe, stdout=pipe, start_new_session=True)  # noqa: ASYNC220
        except OSError as error:
            raise TransportLost(f"the transport cannot be started: {error}") from error
        return cls(process, await pipe_reader(process.stdout), await pipe_writer(process.stdin))

    async def readexactly(self, count: int, /) -> bytes:
        return await self._reader.readexactly(count)

    def write(self, data: bytes, /) -> None:
        if not self._writer.is_closing():
            self._writer.write(data)

    async def drain(self) -> None:
        await self._writer.drain()

    async def end(self, timeout_s: float) -> None:
        if not self._writer.is_closing():
            self._writer.transport.abort()
        try:
            await asyncio.wait_for(asyncio.to_thread(self._process.wait), timeout_s)
        except TimeoutError:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def kill(self) -> None:
        self._process.kill()


class SshStream:
    """A transport on a managed server, with the connection that is its own."""

    def __init__(self, connection: SshConnection, program: SshProgram) -> None:
        self._connection = connection
        self._program = program

    async def readexactly(self, count: int, /) -> bytes:
        return await self._program.readexactly(count)

    def write(self, data: bytes, /) -> None:
        self._program.write(data)

    async def drain(self) -> None:
        await self._program.drain()

    @property
    def words(self) -> str:
        return self._program.stderr_tail

    async def end(self, timeout_s: float) -> None:
        await self._program.ended(timeout_s)
        await self._connection.close()

    def kill(self) -> None:
        self._connection.abort()
