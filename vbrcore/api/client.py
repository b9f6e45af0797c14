"""The client of the service: asks one question at a time over the Unix socket, and starts a service where none runs.

The standard library's HTTP client, loaded with the first question: a command that asks nothing does not pay for it.
"""

import fcntl
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import msgspec

from vbrcore.api.home import Home, find_home
from vbrcore.api.operations import Operation
from vbrcore.model.errors import (
    ErrorInfo,
    PermissionRefused,
    ProtocolError,
    ServiceStopping,
    ServiceUnavailable,
    error_from,
)

if TYPE_CHECKING:
    import http.client

Req = TypeVar("Req", bound=msgspec.Struct)
Rep = TypeVar("Rep")

START_TIMEOUT_S = 60.0
_POLL_S = 0.01
_ENDING_PATIENCE_S = 5.0
_NOBODY_LISTENS = (FileNotFoundError, NotADirectoryError, ConnectionRefusedError)
_ALREADY_RUNNING_EXIT_CODE = 18
_LOG_TAIL_BYTES = 64 * 1024


class Client:
    """Safe from several threads, which ask one after the other. Close it, or use it as a context manager."""

    def __init__(
        self, home: Home | Path | str | None = None, *, start: bool = True, timeout_s: float | None = None
    ) -> None:
        """`start`: start a service where none runs. `timeout_s`: how long to wait for a reply (None: as it takes)."""
        self.home = home if isinstance(home, Home) else find_home(home)
        self._start = start
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None

    def call(self, operation: Operation[Req, Rep], request: Req) -> Rep:
        """Ask one question. Raises the service's error, or `ServiceUnavailable` where nobody answers."""
        with self._lock:
            status, data = self._call(operation, request)
        try:
            if status < 400:
                return msgspec.json.decode(data, type=operation.reply)
            info = msgspec.json.decode(data, type=ErrorInfo)
        except msgspec.DecodeError as error:
            raise ProtocolError(f"the service's reply to {operation.name} cannot be read: {error}") from error
        raise error_from(info)

    def close(self) -> None:
        with self._lock:
            self._drop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, operation: Operation[Req, Rep], request: Req) -> tuple[int, bytes]:
        """Exchange; a service that is just ending by itself refuses, and its successor is asked instead."""
        give_up = time.monotonic() + _ENDING_PATIENCE_S
        while True:
            status, data = self._exchange(operation, request)
            if status != 503 or not self._start or time.monotonic() > give_up or not _is_stopping(data):
                return status, data
            self._drop()
            time.sleep(_POLL_S)

    def _exchange(self, operation: Operation[Req, Rep], request: Req) -> tuple[int, bytes]:
        """Send and receive once; where that cannot do anything twice, again while one service follows another."""
        import http.client  # noqa: PLC0415 - see the module's docstring

        path, body = _encode(operation, request)
        give_up = time.monotonic() + (_ENDING_PATIENCE_S if operation.method == "GET" else 0.0)
        while True:
            connection = self._connected()
            try:
                connection.request(operation.method, path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                return response.status, response.read()
            except TimeoutError as error:
                self._drop()
                raise ServiceUnavailable(f"the service did not answer {operation.name} in time") from error
            except (OSError, http.client.HTTPException) as error:
                self._drop()
                if time.monotonic() > give_up:
                    raise ServiceUnavailable(f"the service ended before it answered {operation.name}") from error
                time.sleep(_POLL_S)

    def _connected(self) -> "http.client.HTTPConnection":
        """Return a connection whose other end is still there."""
        if self._connection is not None and _is_stale(self._connection.sock):
            self._drop()
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def _connect(self) -> "http.client.HTTPConnection":
        import http.client  # noqa: PLC0415

        try:
            sock = _open(self.home)
        except _NOBODY_LISTENS as error:
            if not self._start:
                raise ServiceUnavailable(f"no service runs for {self.home.path}") from error
            sock = _start_service(self.home)
        except PermissionError as error:
            raise PermissionRefused(f"{self.home.socket()} may not be opened by this account") from error
        except OSError as error:
            raise ServiceUnavailable(f"{self.home.socket()}: {error.strerror or error}") from error
        sock.settimeout(self._timeout_s)
        connection = http.client.HTTPConnection("vbrcore")
        connection.sock = sock
        connection.auto_open = 0  # a connection that was lost is made anew here, not over TCP
        return connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _encode(operation: Operation[Req, Rep], request: Req) -> tuple[str, bytes | None]:
    """Return path and body: a GET carries its request in the query string."""
    if operation.method != "GET":
        return operation.path, msgspec.json.encode(request)
    from urllib.parse import urlencode  # noqa: PLC0415 - http.client needs it anyway

    fields = {name: value for name, value in msgspec.structs.asdict(request).items() if value is not None}
    return (f"{operation.path}?{urlencode(fields)}" if fields else operation.path), None


def _is_stale(sock: socket.socket | None) -> bool:
    """An idle connection on which something arrives was closed by the other end."""
    return sock is None or bool(select.select([sock], [], [], 0)[0])


def _is_stopping(data: bytes) -> bool:
    try:
        return msgspec.json.decode(data, type=ErrorInfo).code == ServiceStopping.code
    except msgspec.DecodeError:
        return False


def _open(home: Home) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.connect(os.fspath(home.socket()))
    except OSError as error:
        sock.close()
        if "AF_UNIX path too long" in str(error):  # no service was there to choose another place yet
            raise FileNotFoundError(str(home.socket())) from error
        raise
    return sock


# --- starting a service ---------------------------------------------------------------------------


def _start_service(home: Home) -> socket.socket:
    """Start one that ends by itself, wait until it listens, and connect. Raises its own error where it cannot run.

    Of several clients one starts it and the others wait. That one service holds the home is decided by its own lock.
    """
    home.prepare()
    starting = os.open(home.run / "starting.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(starting, fcntl.LOCK_EX)
        return _start_and_connect(home)
    finally:
        os.close(starting)


def _start_and_connect(home: Home) -> socket.socket:
    give_up = time.monotonic() + START_TIMEOUT_S
    log_size = home.service_log.stat().st_size if home.service_log.exists() else 0
    pid = 0
    while time.monotonic() < give_up:
        try:
            return _open(home)
        except _NOBODY_LISTENS:
            pid = pid or _spawn(home)
            time.sleep(_POLL_S)
        if (exit_code := _exit_code(pid)) is not None:
            if exit_code != _ALREADY_RUNNING_EXIT_CODE:
                raise _start_error(home, log_size, exit_code)
            pid = 0  # the one before it is just ending
    raise ServiceUnavailable(f"the service of {home.path} did not start within {START_TIMEOUT_S:.0f} s")


def _spawn(home: Home) -> int:
    """Start a service of its own session that writes to its log; return its pid. Not subprocess: takes 8 ms to load."""
    arguments = [sys.executable, "-m", "vbrcore", "service", "run", "--on-demand", "--home", os.fspath(home.path)]
    log_flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    return os.posix_spawn(
        sys.executable,
        arguments,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, os.fspath(home.service_log), log_flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def _exit_code(pid: int) -> int | None:
    """Return how a service that we started ended, or None while it runs."""
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


class _LogLine(msgspec.Struct):
    error: ErrorInfo


def _start_error(home: Home, log_size: int, exit_code: int) -> Exception:
    """Return the error that a service wrote to its log before it ended."""
    with home.service_log.open("rb") as file:
        file.seek(log_size)
        lines = file.read(_LOG_TAIL_BYTES).splitlines()
    for line in reversed(lines):
        try:
            return error_from(msgspec.json.decode(line, type=_LogLine).error)
        except msgspec.DecodeError:
            continue
    last = lines[-1].decode(errors="replace") if lines else ""
    return ServiceUnavailable(f"the service of {home.path} ended with {exit_code}: {last}")
