"""The service's socket: where it stands, who may open it, and that it is gone afterwards."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vbrcore.api.home import LONGEST_SOCKET_PATH_BYTES, SOCKET_NAME, SYSTEM_HOME, SYSTEM_SOCKET, Home

_PRIVATE_PREFIX = "vbrcore-"
_BACKLOG = 128


@contextmanager
def listening(home: Home, *, open_to_others: bool) -> Iterator[socket.socket]:
    """Listen for this home; only one process at a time may (it holds the home's lock).

    Where the path in `run/` would be too long, a directory that nobody else can enter takes its place, named in a note.
    """
    _remove_left_over(home)
    path = _place(home)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)  # the socket is never open to others, not even for a moment
        try:
            path.unlink(missing_ok=True)
            sock.bind(os.fspath(path))
        finally:
            os.umask(before)
        if open_to_others:
            path.chmod(0o666)  # who connects is checked by its user id
        sock.listen(_BACKLOG)
        _note(home, path)
        yield sock
    finally:
        sock.close()
        path.unlink(missing_ok=True)
        _remove_left_over(home)


def _place(home: Home) -> Path:
    if os.geteuid() == 0 and home.path == SYSTEM_HOME:
        SYSTEM_SOCKET.parent.mkdir(mode=0o755, exist_ok=True)
        return SYSTEM_SOCKET
    normal = home.run / SOCKET_NAME
    if len(os.fsencode(normal)) <= LONGEST_SOCKET_PATH_BYTES:
        return normal
    parent = os.environ.get("XDG_RUNTIME_DIR") or "/tmp"  # noqa: S108 - the directory in it is made by mkdtemp
    return Path(tempfile.mkdtemp(prefix=_PRIVATE_PREFIX, dir=parent)) / SOCKET_NAME


def _note(home: Home, path: Path) -> None:
    part = home.socket_note.with_suffix(".part")
    part.write_text(f"{path}\n", encoding="utf-8")
    part.replace(home.socket_note)


def _remove_left_over(home: Home) -> None:
    """Remove the note, and the private directory that it names, of this service or of one that was killed."""
    if not home.socket_note.exists():
        return
    directory = home.socket().parent
    home.socket_note.unlink()
    if directory.name.startswith(_PRIVATE_PREFIX) and directory.is_dir() and directory.stat().st_uid == os.geteuid():
        shutil.rmtree(directory)
