"""A sink that is a Unix socket: the disk goes down it raw, in order, zeros included (`restore ... --output -`)."""

import socket
import struct
from pathlib import Path
from typing import Final

from vbrcore.model.errors import InvalidValue, OutputRefused, SinkWriteFailed
from vbrcore.mover.sockets import connect_to
from vbrcore.mover.turns import Turns
from vbrcore.plugins.api import Confinement, SinkSpec

_ZEROS_BYTES: Final = 1024 * 1024
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid of SO_PEERCRED


class StreamWriter:
    """Writes from several threads are put in order: each waits until all before it are out.

    Setting `socket` (a path), secret `token`, which is sent first, as a line.
    """

    ordered = True  # a restore then hands out blocks and holes in the order of the disk

    def __init__(self, spec: SinkSpec) -> None:
        path, token = spec.settings.get("socket"), spec.secrets.get("token", "")
        if not isinstance(path, str) or not token or "\n" in token:
            raise InvalidValue("a stream sink needs the setting 'socket' and the secret 'token'")
        self._size_bytes = spec.size_bytes
        self._turns = Turns()
        self._zeros = bytes(_ZEROS_BYTES)
        try:
            self._socket = connect_to(Path(path))
            self._check_reader(spec.confinement)
            self._socket.sendall(token.encode() + b"\n")
        except OSError as error:
            raise SinkWriteFailed(f"the reader of the stream is gone: {error}") from error

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Send the buffer when its turn has come."""
        self._turns.wait_for(offset)
        self._send(buffer)
        self._turns.advance(len(buffer))

    def zero(self, offset: int, length: int) -> None:
        """Send zeros when their turn has come."""
        self._turns.wait_for(offset)
        for start in range(0, length, _ZEROS_BYTES):
            self._send(memoryview(self._zeros)[: min(_ZEROS_BYTES, length - start)])
        self._turns.advance(length)

    def finish(self) -> None:
        """End the stream. Raises `SinkWriteFailed` if anything is missing."""
        if self._turns.position != self._size_bytes:
            raise SinkWriteFailed(f"the stream ends at {self._turns.position} of {self._size_bytes} bytes")
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise SinkWriteFailed(f"the reader of the stream is gone: {error}") from error

    def close(self) -> None:
        self._turns.fail()
        self._socket.close()

    def _check_reader(self, confinement: Confinement | None) -> None:
        """Say nothing to a socket that our caller could not have listened on: it might do what we tell it."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, uid, _ = _CREDENTIALS.unpack(credentials)
        if confinement is not None and uid != confinement.uid:
            self._socket.close()
            raise OutputRefused(f"user {uid} listens for the stream, not user {confinement.uid}, who asked for it")

    def _send(self, buffer: memoryview) -> None:
        try:
            self._socket.sendall(buffer)
        except OSError as error:
            self._turns.fail()
            raise SinkWriteFailed(f"the reader of the stream is gone: {error}") from error
