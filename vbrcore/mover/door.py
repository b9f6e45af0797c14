"""Where one mover waits for the other one of an attempt: open until that one has proved itself, and never longer."""

import contextlib
import socket
import threading
from collections.abc import Callable
from typing import Final

from vbrcore.model.errors import PeerRefused, VbrError
from vbrcore.mover.meeting import Announcer
from vbrcore.mover.messages import Endpoint, Proof
from vbrcore.mover.tcp import listen_on, prepare
from vbrcore.mover.tls import TlsConnection, opened

MAX_STRANGERS: Final = 8  # connections that have not proved anything yet
OPEN_S: Final = 120.0  # how long a source may take to start and to come
_MAX_WORDS: Final = 20  # log lines about those who were turned away


class Door:
    """Listens for one peer. `on_open` is called once, on a thread of the door, with the connection of that peer.

    Who cannot prove to be the peer is turned away, said to `warn`, and hurts nobody: there are never more than
    `MAX_STRANGERS` of them (the oldest goes first), and none for longer than a handshake may take.
    Raises `NoFreePort`, `NoDataAddress`.
    """

    def __init__(
        self, endpoint: Endpoint, proof: Proof, on_open: Callable[[TlsConnection], None], warn: Callable[[str], None]
    ) -> None:
        self._proof = proof
        self._on_open = on_open
        self._warn = warn
        self._lock = threading.Lock()
        self._strangers: list[socket.socket] = []
        self._turned_away = 0
        self._closed = False
        self._listener = listen_on(endpoint.host, endpoint.ports)
        self.port: int = self._listener.getsockname()[1]
        self._listener.settimeout(OPEN_S)
        threading.Thread(target=self._accept, name="door", daemon=True).start()

    def close(self) -> None:
        """Stop to listen, and drop whoever has not proved anything yet."""
        with self._lock:
            self._closed = True
            strangers, self._strangers = self._strangers, []
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for stranger in strangers:
            _drop(stranger)

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:  # closed, or open for long enough
                self.close()
                return
            with self._lock:
                if self._closed:
                    connection.close()
                    return
                self._strangers.append(connection)
                oldest = self._strangers.pop(0) if len(self._strangers) > MAX_STRANGERS else None
            if oldest is not None:
                _drop(oldest)
            name = f"{address[0]} port {address[1]}"
            threading.Thread(target=self._prove, args=(connection, name), name="stranger", daemon=True).start()

    def _prove(self, connection: socket.socket, name: str) -> None:
        try:
            prepare(connection)
            tls = opened(connection, self._proof, server=True)
        except (VbrError, OSError) as error:
            self._turn_away(connection, name, error)
            return
        with self._lock:
            known = connection in self._strangers
            if known:
                self._strangers.remove(connection)
        if not known:  # closed meanwhile, or somebody was faster
            connection.close()
            return
        self.close()
        self._on_open(tls)

    def _turn_away(self, connection: socket.socket, name: str, error: Exception) -> None:
        with self._lock:
            if connection in self._strangers:
                self._strangers.remove(connection)
            self._turned_away += 1
            count, closed = self._turned_away, self._closed
        connection.close()
        if not closed and count <= _MAX_WORDS:
            more = "; more of them are not logged" if count == _MAX_WORDS else ""
            self._warn(f"turned away a data connection from {name}: {error}{more}")


def _drop(connection: socket.socket) -> None:
    """End a connection whose thread waits for it; that thread closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def wait_for(endpoint: Endpoint, proof: Proof, announcer: Announcer, patience_s: float) -> TlsConnection:
    """Listen until the peer has come. Raises `PeerRefused` when it does not, and what `Door` raises."""
    came = threading.Event()
    found: list[TlsConnection] = []

    def on_open(connection: TlsConnection) -> None:
        found.append(connection)
        came.set()

    door = Door(endpoint, proof, on_open, announcer.warn)
    try:
        announcer.listening(door.port)
        if not came.wait(patience_s):
            raise PeerRefused(f"the other mover did not come to port {door.port} within {patience_s:.0f} s")
    finally:
        door.close()
    return found[0]
