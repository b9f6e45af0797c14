"""TCP sockets between movers: a free port of a range, and how a cut connection is noticed."""

import errno
import random
import socket
from typing import Final

from vbrcore.model.errors import NoDataAddress, NoFreePort

CONNECT_S: Final = 10.0
# A peer that is gone is noticed within 30 s (DESIGN section 4) also while nothing is sent.
_IDLE_S, _INTERVAL_S, _PROBES = 10, 5, 4


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
