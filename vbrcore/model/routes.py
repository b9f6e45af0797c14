"""Which way the data of a task goes from the source mover's server to the target mover's."""

from typing import Literal

import msgspec

from vbrcore.model.errors import NoRoute
from vbrcore.model.inventory import DATA_PORTS, Server

Way = Literal["socket", "target_listens", "source_listens"]


class Route(msgspec.Struct, frozen=True):
    """How the two movers of a task meet.

    `socket`: both are on one server. Else the listening one does so at `address`, on a port of `ports`; `dialler` is
    the data address of the server that dials. `address` is "" where the listening server is this machine and nobody
    said how others dial it: it is then the address from which this machine reaches `dialler`. `sites` are those of the
    source and of the target; empty where the data stays on one server.
    """

    way: Way
    address: str = ""
    ports: tuple[int, int] = DATA_PORTS
    dialler: str = ""
    listener_name: str = ""
    sites: tuple[str, str] | tuple[()] = ()


def data_route(source: Server, target: Server) -> Route:
    """Return the way between two servers. The target listens wherever it can be dialled. Raises `NoRoute`."""
    if source.name == target.name:
        return Route("socket")
    if not target.dials_only:
        return _listening("target_listens", target, source, (source.site, target.site))
    if has_route(source, target):
        return _listening("source_listens", source, target, (source.site, target.site))
    raise NoRoute(f"no data can go from {source.name} to {target.name}: both only dial, so neither can listen")


def has_route(source: Server, target: Server) -> bool:
    """Tell whether `data_route` has a way."""
    return source.name == target.name or not (source.dials_only and target.dials_only)


def _listening(way: Way, listener: Server, dialler: Server, sites: tuple[str, str]) -> Route:
    return Route(way, listener.data_address, listener.ports, dialler.data_address, listener.name, sites)
