"""TCP sockets between movers: a free port of a range, and how a cut connection is noticed."""

import errno
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

from vbrcore.model.errors import NoDataAddress, NoFreePort

CONNECT_S: Final = 10.0
# A peer that is gone is noticed within 30 s (DESIGN section 4), whether or not something is sent. Keep-alive sees to
# it that a peer which lives says so at least every 10 s.
SILENCE_S: Final = 26.0
_IDLE_S, _INTERVAL_S, _PROBES = 10, 5, 3
_LOOKS: Final = 3  # a probe that went out just now needs time to be answered
_TCP_INFO: Final = struct.Struct("<3xB20xI28xI")  # probes, unacknowledged segments, age of the last ACK in ms


def listen_on(host: str, ports: tuple[int, int]) -> socket.socket:
    """Listen at this address of ours, on a free port of the range. Raises `NoFreePort`, `NoDataAddress`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    choice = list(range(ports[0], ports[1] + 1))
    random.shuffle(choice)  # movers that start together do not try the same ones
    for port in choice:
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(16)
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise NoFreePort(f"port {port} of {host} may not be used: {error}") from error
            raise NoDataAddress(f"{host} is not an address of this server: {error}") from error
        return listener
    raise NoFreePort(f"no port from {ports[0]} to {ports[1]} is free at {host}")


def dial(host: str, port: int) -> socket.socket:
    """Connect. Raises OSError."""
    connection = socket.create_connection((host, port), CONNECT_S)
    prepare(connection)
    return connection


def prepare(connection: socket.socket) -> None:
    """Set what every data connection has: no delays, and keep-alive. Its buffers grow as the kernel sees fit."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)


class Lifeline:
    """Ends a connection on which the peer's kernel acknowledges nothing any more.

    TCP_USER_TIMEOUT would not do: it also ends a connection whose peer lives and is only slow to read, because its disk
    or its rate limit is. That peer acknowledges what asks whether its window is still closed, and this is looked at.
    `on_cut` is called once, before the connection is shut down.
    """

    def __init__(self, connection: socket.socket, on_cut: Callable[[], None], silence_s: float) -> None:
        self._connection = connection
        self._on_cut = on_cut
        self._silence_s = silence_s
        self._ended = threading.Event()
        threading.Thread(target=self._watch, name="lifeline", daemon=True).start()

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        looks = 0
        while not self._ended.wait(1.0):
            try:
                looks = looks + 1 if unanswered_s(self._connection) > self._silence_s else 0
                if looks == _LOOKS:
                    self._on_cut()
                    self._connection.shutdown(socket.SHUT_RDWR)
                    return
            except OSError:  # it has ended
                return


def unanswered_s(connection: socket.socket) -> float:
    """Return since when the peer has acknowledged nothing, in seconds; 0 where nothing waits for it."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
    probes, unacknowledged, age_ms = _TCP_INFO.unpack(info)
    return float(age_ms) / 1000 if probes or unacknowledged else 0.0
