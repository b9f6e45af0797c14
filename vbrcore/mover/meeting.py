"""How the two movers of an attempt get their connection, as their endpoints say."""

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from vbrcore.model.errors import MoverLost, ProtocolError
from vbrcore.mover.messages import Endpoint
from vbrcore.mover.sockets import connect_to

if TYPE_CHECKING:
    from vbrcore.mover.tls import TlsConnection


_TARGET_S: Final = 30.0  # a target runs already


class Announcer(Protocol):
    """What the manager of a mover that listens is told."""

    def listening(self, port: int) -> None: ...

    def warn(self, text: str) -> None: ...


def meet(
    endpoint: Endpoint, announcer: Announcer | None = None, patience_s: float = _TARGET_S
) -> "socket.socket | TlsConnection":
    """Return the connection to the other mover. Where this one listens, `announcer` says so, for `patience_s`.

    Raises `MoverLost` when nobody is there, `PeerRefused` when it is somebody else, `NoFreePort`, `NoDataAddress`.
    """
    if endpoint.proof is None:
        try:
            return connect_to(Path(endpoint.path))
        except OSError as error:
            raise MoverLost(f"the target mover does not listen: {error}") from error
    if not endpoint.listens:
        return dialled(endpoint)
    if announcer is None:
        raise ProtocolError("this mover cannot listen")
    from vbrcore.mover.door import wait_for  # noqa: PLC0415 - on one server no mover needs TLS

    return wait_for(endpoint, endpoint.proof, announcer, patience_s)


def dialled(endpoint: Endpoint) -> "TlsConnection":
    """Dial the other mover and see that it is the right one. Raises `MoverLost`, `PeerRefused`."""
    from vbrcore.mover import tcp, tls  # noqa: PLC0415 - on one server no mover needs TLS

    if endpoint.proof is None:
        raise ProtocolError("this endpoint has nothing to prove oneself with")
    try:
        connection = tcp.dial(endpoint.host, endpoint.ports[0])
    except OSError as error:
        place = f"{endpoint.host} port {endpoint.ports[0]}"
        raise MoverLost(f"the other mover cannot be reached at {place}: {error}") from error
    try:
        return tls.opened(connection, endpoint.proof, server=False)
    except BaseException:
        connection.close()
        raise
