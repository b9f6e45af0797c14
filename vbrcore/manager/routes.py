"""Routes with real addresses: names are looked up here once, so that both movers mean the same one."""

import asyncio
import socket

import msgspec

from vbrcore.model.errors import NoDataAddress
from vbrcore.model.routes import Route
from vbrcore.mover.messages import Endpoint
from vbrcore.transport.certificates import proofs


def endpoints(route: Route, secret: bytes) -> tuple[Endpoint, Endpoint]:
    """Return what the source and the target of one attempt are told; who dials learns the port when it is known."""
    source, target = proofs()
    listens = route.way == "source_listens"
    return (
        Endpoint("", secret, route.address, route.ports, listens=listens, proof=source),
        Endpoint("", secret, route.address, route.ports, listens=not listens, proof=target),
    )


async def resolved(route: Route) -> Route:
    """Return the route with an IP address to listen at and to dial. Raises `NoDataAddress`."""
    if route.way == "socket":
        return route
    if route.address:
        return msgspec.structs.replace(route, address=await _address_of(route.address, route.listener_name))
    if not route.dialler:
        raise NoDataAddress(f"nobody said at which address other servers dial {route.listener_name}")
    peer = await _address_of(route.dialler, route.listener_name)
    return msgspec.structs.replace(route, address=local_address_towards(peer))


async def _address_of(name: str, listener: str) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError as error:
        raise NoDataAddress(f"the address {name!r}, needed to reach {listener}, is not known: {error}") from error
    return str(found[0][4][0])


def local_address_towards(peer: str) -> str:
    """Return the address of this machine that a packet to `peer` (an IP address) would carry; nothing is sent."""
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError as error:
            raise NoDataAddress(f"this machine has no way to {peer}, so it has no address for it: {error}") from error
        return str(probe.getsockname()[0])
