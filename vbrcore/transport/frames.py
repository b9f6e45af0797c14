"""Frames of the control stream on asyncio streams; their form is that of `vbrcore.mover.control`."""

import asyncio
from typing import Protocol

from vbrcore.mover.control import LENGTH_BYTES, frame_length, frame_of

HEARTBEAT = frame_of(b"")


class ByteReader(Protocol):
    """What frames are read from: an asyncio stream, or what is like one."""

    async def readexactly(self, count: int, /) -> bytes:
        """Raise `asyncio.IncompleteReadError` at the end of the stream."""


async def read_frame(reader: ByteReader) -> bytes | None:
    """Return the next body (empty: a heartbeat), or None at the end of the stream. Raises `ProtocolError`."""
    try:
        header = await reader.readexactly(LENGTH_BYTES)
        return await reader.readexactly(frame_length(header))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def write_frame(writer: asyncio.StreamWriter, body: bytes) -> None:
    """Send one body and wait while the peer is slow. Raises `ConnectionError` when it is gone."""
    writer.write(frame_of(body))
    await writer.drain()


async def pipe_reader(pipe: object) -> asyncio.StreamReader:
    """Return a stream over the reading end of a pipe, given as an open file; the stream closes it."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


async def pipe_writer(pipe: object) -> asyncio.StreamWriter:
    """Return a stream over the writing end of a pipe, given as an open file; the stream closes it."""
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, pipe)
    return asyncio.StreamWriter(transport, protocol, None, loop)
