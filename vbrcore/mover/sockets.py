"""Unix sockets at paths of any length: the kernel takes 107 bytes, a home directory may be deeper."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

BUFFER_BYTES = 4 * 1024 * 1024


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Yield a short name for `path` that is good while the context lasts."""
    directory_fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory_fd}/{path.name}"
    finally:
        os.close(directory_fd)


def listen_at(path: Path) -> socket.socket:
    """Listen at `path`, in a directory that is made for it with mode 0700; a socket left there is replaced."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            listener.bind(name)
        listener.listen(128)
    except BaseException:
        listener.close()
        raise
    return listener


def connect_to(path: Path) -> socket.socket:
    """Connect to the socket at `path`. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short(path) as name:
            connection.connect(name)
        enlarge_buffer(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def enlarge_buffer(connection: socket.socket) -> None:
    """Let a few blocks stand in the socket, so that neither side waits for every one; the kernel may grant less."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
