"""A restored disk as a stream: a private socket that one writer may use, and the copying of what it sends."""

from __future__ import annotations

import hmac
import os
import secrets
import shutil
import socket
import tempfile
import threading
from pathlib import Path
from typing import Self

from vbrcore.cli.api import errors

_BUFFER_BYTES = 1024 * 1024
_TOKEN_LINE_BYTES = 128
_TOKEN_TIMEOUT_S = 10.0
_ACCEPT_POLL_S = 0.1
_LONGEST_SOCKET_PATH = 100


class StreamReceiver:
    """Listens in a directory of its own whose contents cannot be listed, and copies to a descriptor in a thread.

    The writer sends the token and a newline first, then bytes until it closes. Who has no token is turned away.
    The socket may be opened by any account, because the service may run as another one: name and token are random.
    """

    def __init__(self, output: int) -> None:
        self.token = secrets.token_urlsafe(32)
        self.received_bytes = 0
        self._output = output
        self._error: OSError | None = None
        self._complete = False
        self._gone = threading.Event()
        self._directory = Path(tempfile.mkdtemp(prefix="vbr-stream-", dir=_short_directory()))
        self._directory.chmod(0o711)
        self.path = str(self._directory / secrets.token_hex(8))
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.path)
        Path(self.path).chmod(0o666)
        self._listener.listen(1)
        self._listener.settimeout(_ACCEPT_POLL_S)
        self._thread = threading.Thread(target=self._receive, name="stream", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()
        self._listener.close()
        shutil.rmtree(self._directory, ignore_errors=True)

    def check(self) -> None:
        """Raise what went wrong with the output, e.g. `BrokenPipeError` when its reader left."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Wait until all that was sent is written; raises `ProtocolError` where nobody sent anything."""
        if not self._complete:
            self._thread.join(_TOKEN_TIMEOUT_S if self.received_bytes == 0 else None)
        self.check()
        if not self._complete:
            raise errors.ProtocolError("the session ended without sending the disk")

    def _receive(self) -> None:
        try:
            connection = self._accept()
            if connection is None:
                return
            with connection:
                self._copy(connection)
        except OSError as error:
            self._error = error

    def _accept(self) -> socket.socket | None:
        """Return the connection that knew the token, or None when nobody wants it any more."""
        while not self._gone.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            if self._knows_token(connection):
                return connection
            connection.close()
        return None

    def _knows_token(self, connection: socket.socket) -> bool:
        connection.settimeout(_TOKEN_TIMEOUT_S)
        line = bytearray()
        try:
            while len(line) < _TOKEN_LINE_BYTES and not line.endswith(b"\n"):
                byte = connection.recv(1)
                if not byte:
                    return False
                line += byte
        except OSError:  # a stranger that hangs or leaves does not end the restore
            return False
        return hmac.compare_digest(bytes(line), self.token.encode() + b"\n")

    def _copy(self, connection: socket.socket) -> None:
        connection.settimeout(_ACCEPT_POLL_S)
        buffer = memoryview(bytearray(_BUFFER_BYTES))
        while not self._gone.is_set():
            try:
                length = connection.recv_into(buffer)
            except TimeoutError:
                continue
            if length == 0:
                self._complete = True
                return
            self.received_bytes += length
            rest = buffer[:length]
            while rest:
                rest = rest[os.write(self._output, rest) :]


def _short_directory() -> str | None:
    """A socket's path is limited to 107 bytes, and TMPDIR may be longer than that allows."""
    name_bytes = len("/vbr-stream-12345678/") + 16
    return None if len(tempfile.gettempdir()) + name_bytes <= _LONGEST_SOCKET_PATH else "/tmp"  # noqa: S108
