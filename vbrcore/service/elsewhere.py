"""Repositories as the service sees them: those of this machine itself, all others by storage movers beside them.

How those are, is looked at in the background and kept, so that no decision waits for a server or a share.
"""

import asyncio
import logging
import time
from typing import Final

import msgspec

from vbrcore.api.home import Home
from vbrcore.balancer.decide import Closed
from vbrcore.balancer.gateways import GatewayChoice
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import ENDING
from vbrcore.manager.gateways import OF_THE_SHARE, Gateways, candidates, explained
from vbrcore.model.errors import NoGateway, NotFound, VbrError
from vbrcore.model.inventory import LOCAL_SERVER, Repository
from vbrcore.service.balancing import below_reserve
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import Space, space_of
from vbrcore.transport.bundle import Bundles
from vbrcore.transport.client import MoverHandle, TransportClient
from vbrcore.transport.remotestorage import RemoteStorage
from vbrcore.transport.ssh import open_connection
from vbrcore.transport.storages import Storages, is_here

_log = logging.getLogger(__name__)
LOOK_S: Final = 30.0
# What is shown may be so old.
_FRESH_S: Final = 2 * LOOK_S
# What was seen is believed for so long; after that a repository counts as away.
_STALE_S: Final = 180.0
_ID: Final = "service"


class Seen(msgspec.Struct, frozen=True):
    """How a repository was at a time of the monotonic clock: its space, or why it cannot be used.

    `stored_bytes`: what backup files take, by chain directory; `files`: how many there are.
    """

    at: float
    space: Space | None = None
    error: VbrError | None = None
    stored_bytes: dict[str, int] = {}
    files: int = 0


class Elsewhere:
    """`open` and `create` block and are for worker threads; the rest is for the event loop it was made in."""

    def __init__(self, home: Home, catalog: Catalog) -> None:
        self._catalog = catalog
        self._bundles = Bundles(home.path / "cache")
        self._transports: dict[str, TransportClient] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._seen: dict[str, Seen] = {}
        self._storages = Storages(self._start, catalog.place)
        self._gateways = Gateways(catalog, self._storages, _say)

    def open(self, repository: Repository) -> Storage:
        """Return the storage of a repository; a gateway or mover that was lost meanwhile is replaced once.

        Raises what `Storages.open` and `Gateways.settled` raise.
        """
        if is_here(repository):
            return self._storages.open(repository)
        settled = self._storages.run(self._gateways.settled(repository))
        try:
            return self._storages.open(settled)
        except OF_THE_SHARE:
            raise
        except VbrError as error:
            if not error.retryable or not repository.is_share:
                raise
            self._gateways.forget(settled, error)
            return self._storages.open(self._storages.run(self._gateways.settled(repository)))

    def create(self, repository: Repository) -> RemoteStorage:
        """Make a place a repository; the server that can, stands by it: of a share the first gateway that can.

        Raises what `places.create_at` raises, `NoGateway`.
        """
        if not repository.is_share:
            return self._storages.run(self._storages.start(repository, "create"))
        refused: list[str] = []
        for server in candidates(repository, self._catalog.servers()):
            there = msgspec.structs.replace(repository, server=server.name)
            try:
                return self._storages.run(self._storages.start(there, "create"))
            except OF_THE_SHARE:
                raise
            except VbrError as error:
                if not error.retryable:
                    raise
                refused.append(f"{server.name}: {error}")
        raise NoGateway(f"no server can open {repository.path}: {'; '.join(refused) or 'none may be a gateway'}")

    def close_storage(self, storage: RemoteStorage) -> None:
        """End a storage that `create` opened."""
        self._storages.run(storage.close())

    def gateway(self, repository: Repository) -> str:
        """Return the name of the server that opens a share for the service ("": none has yet)."""
        return self._gateways.last(repository)

    def seen(self, repository: Repository) -> Seen:
        """Return how a repository elsewhere is: as it was seen lately, or else as it is now."""
        seen = self._seen.get(repository.repository_id)
        if seen is None or time.monotonic() - seen.at > _FRESH_S:
            seen = self._seen[repository.repository_id] = self._look_at(repository)
        return seen

    def closed(self, repository: Repository) -> Closed | None:
        """Say from what was seen last why a repository elsewhere takes nothing new; None: it does."""
        seen = self._seen.get(repository.repository_id)
        if seen is None:
            return None  # nobody has looked yet: a session that cannot use it is told
        if seen.error is not None:
            return Closed(seen.error.code, str(seen.error))
        if time.monotonic() - seen.at > _STALE_S:
            return Closed("server_away", f"repository {repository.name} was not seen for a while")
        return below_reserve(repository, seen.space)

    async def watch(self) -> None:
        """Look at all repositories elsewhere, again and again, until cancelled."""
        while True:
            try:
                away = [one for one in await asyncio.to_thread(self._catalog.repositories) if not is_here(one)]
                await asyncio.gather(*(self._look(one) for one in away))
                known = {one.repository_id for one in away}
                self._seen = {key: seen for key, seen in self._seen.items() if key in known}
            except VbrError as error:
                _log.warning("%s: %s", error.code, error)
            await asyncio.sleep(LOOK_S)

    async def close(self) -> None:
        """End all movers and transports."""
        await self._storages.close()
        for transport in tuple(self._transports.values()):
            await transport.close()

    async def _look(self, repository: Repository) -> None:
        self._seen[repository.repository_id] = await asyncio.to_thread(self._look_at, repository)

    def _look_at(self, repository: Repository) -> Seen:
        try:
            storage = self.open(repository)
            space = space_of(storage, repository.reserve_bytes)
            stored, files = stored_in(storage)
        except VbrError as error:
            return Seen(time.monotonic(), error=error)
        return Seen(time.monotonic(), space, None, stored, files)

    async def _start(self, server: str, path: str) -> MoverHandle:
        transport = await self._transport(server)
        return await transport.start_mover("storage", _ID, _ID, "", path)

    async def _transport(self, name: str) -> TransportClient:
        """Return the transport of a server, started where there is none that lives."""
        async with self._starting.setdefault(name, asyncio.Lock()):
            transport = self._transports.get(name)
            if transport is not None and transport.lost is None:
                return transport
            if transport is not None:
                await transport.close()
            transport = TransportClient(server=name)
            server = self._catalog.server_by_name(name)
            if name == LOCAL_SERVER or server.ssh is None:
                await transport.start_local(_ID, _ID)
            else:
                secrets = self._catalog.server_secrets(server.server_id)
                connection = await open_connection(server.ssh, secrets, name=name)
                await transport.start_remote(connection, self._bundles, _ID, _ID)
            self._transports[name] = transport
            return transport


def _say(repository: Repository, choice: GatewayChoice) -> None:
    _log.info("%s: %s", repository.path, explained(choice))


def stored_in(storage: Storage) -> tuple[dict[str, int], int]:
    """Return the bytes that backup files take of a storage, by chain directory, and how many files there are."""
    stored: dict[str, int] = {}
    files = 0
    for name in storage.list(""):
        if not name.endswith(ENDING):
            continue
        try:
            taken_bytes = storage.allocated_bytes(name)
        except NotFound:
            continue  # given back just now
        directory = name.rpartition("/")[0]
        stored[directory] = stored.get(directory, 0) + taken_bytes
        files += 1
    return stored, files
