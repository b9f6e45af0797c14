"""Which server opens a share: chosen by the balancer's rules from what is known, and tried before it counts."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from vbrcore.balancer.gateways import Gateway, GatewayChoice, choose_gateway
from vbrcore.balancer.words import gateway_words
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.gateways import Fared
from vbrcore.model.errors import (
    InvalidValue,
    NoGateway,
    RepositoryNotMounted,
    ShareRefused,
    VbrError,
)
from vbrcore.model.inventory import LOCAL_SERVER, Repository, Server
from vbrcore.storage.port import Storage
from vbrcore.transport.remotestorage import RemoteStorage
from vbrcore.transport.storages import Storages

# How long what a gateway showed is believed: that it connects in a time, and that it does not.
_KNOWN_S: Final = 86_400.0
_AWAY_S: Final = 60.0
# What another gateway would meet as well.
OF_THE_SHARE: Final = (ShareRefused, RepositoryNotMounted, InvalidValue)


def candidates(repository: Repository, servers: Iterable[Server]) -> tuple[Server, ...]:
    """Return the servers that may open a share: those it names, else all with the role gateway and this machine."""
    named = repository.gateways
    return tuple(
        one for one in servers if (one.name in named if named else "gateway" in one.roles or one.name == LOCAL_SERVER)
    )


def explained(choice: GatewayChoice) -> str:
    """Say a choice in words, with those that were not taken."""
    others = "".join(f"; {one.gateway}: {one.reason} ({one.detail})" for one in choice.others)
    return f"gateway {choice.gateway}: {gateway_words(choice.reason)}{others}"


class Gateways:
    """Settles, once for each repository, which server opens it; a directory has its own. For an event loop.

    `say`: told of each choice, with the repository that it was made for.
    """

    def __init__(self, catalog: Catalog, storages: Storages, say: Callable[[Repository, GatewayChoice], None]) -> None:
        self._catalog = catalog
        self._storages = storages
        self._say = say
        self._settled: dict[str, str] = {}
        self._one_at_a_time = asyncio.Lock()

    async def repository(self, repository_id: str, directory: str = "") -> Repository:
        """Return a repository with the server that opens it, for the chain in `directory` ("": for none)."""
        return await self.settled(self._catalog.repository(repository_id), directory)

    async def settled(self, repository: Repository, directory: str = "") -> Repository:
        """Return the repository with the server that opens it. The share is open there then.

        Raises `NoGateway`, `ShareRefused`, `RepositoryNotMounted`.
        """
        if not repository.is_share:
            return repository
        async with self._one_at_a_time:
            known = self._settled.get(repository.repository_id)
            if known is None:
                known = await self._choose(repository, directory)
                self._settled[repository.repository_id] = known
        if directory:
            self._catalog.note_last_gateway(repository.repository_id, directory, known)
        return msgspec.structs.replace(repository, server=known)

    def last(self, repository: Repository) -> str:
        """Return the gateway that was settled on ("": none)."""
        return self._settled.get(repository.repository_id, "")

    def forget(self, repository: Repository, error: VbrError) -> None:
        """A gateway was lost: the next who asks gets another one."""
        if repository.is_share and self._settled.get(repository.repository_id) == repository.server:
            del self._settled[repository.repository_id]
            self._note(repository, repository.server, None, str(error))

    async def _choose(self, repository: Repository, directory: str) -> str:
        servers = candidates(repository, self._catalog.servers())
        await self._measure(repository, servers)
        failed: dict[str, str] = {}
        while True:
            choice = self._choice(repository, servers, directory, failed)
            if not choice.gateway:  # those that failed a while ago are better than none
                choice = self._choice(repository, servers, directory, failed, believing=False)
            if not choice.gateway:
                why = "; ".join(f"{one.gateway}: {one.detail}" for one in choice.others)
                raise NoGateway(f"no server can open {repository.path}" + (f": {why}" if why else ""))
            if not (why := await self._try(repository, choice.gateway)):
                self._say(repository, choice)
                return choice.gateway
            failed[choice.gateway] = why

    def _choice(
        self,
        repository: Repository,
        servers: Iterable[Server],
        directory: str,
        failed: Mapping[str, str],
        *,
        believing: bool = True,
    ) -> GatewayChoice:
        """Choose among those that have not `failed` now; `believing`: nor lately."""
        fared = self._catalog.gateways_of(repository.repository_id)
        states = self._catalog.server_states()
        usage = self._catalog.usage()
        known = []
        for one in servers:
            last = fared.get(one.name, Fared(one.name, None, "", 0.0))
            state = states.get(one.server_id)
            away = last.away if believing and time.time() - last.checked < _AWAY_S else ""
            # One whose budget is spent is waited for by the lease: that is no reason to have none.
            used = min(usage[f"host:{one.server_id}"], one.host_budget - 1)
            away = failed.get(one.name, "") or (state.away if state is not None else "") or away
            known.append(Gateway(one.name, one.site, last.connect_s, one.host_budget, used, away))
        last_one = self._catalog.last_gateway(repository.repository_id, directory) if directory else ""
        return choose_gateway(known, share_site=repository.site, last=last_one)

    async def _measure(self, repository: Repository, servers: tuple[Server, ...]) -> None:
        """Try those of whom nothing is known, all at once: else the first that was tried would serve for ever."""
        if len(servers) == 1:
            return
        fared = self._catalog.gateways_of(repository.repository_id)
        now = time.time()
        unknown = [one.name for one in servers if one.name not in fared or now - fared[one.name].checked > _KNOWN_S]
        await asyncio.gather(*(self._try(repository, name) for name in unknown))

    async def _try(self, repository: Repository, name: str) -> str:
        """Have a gateway open the share; return why it cannot ("": it can). Raises what every gateway would meet."""
        there = msgspec.structs.replace(repository, server=name)
        try:
            storage: Storage = await asyncio.to_thread(self._storages.open, there)
        except OF_THE_SHARE:
            raise
        except VbrError as error:
            self._note(repository, name, None, str(error))
            return str(error)
        if isinstance(storage, RemoteStorage):
            self._note(repository, name, storage.connect_s, "")
        return ""

    def _note(self, repository: Repository, name: str, connect_s: float | None, away: str) -> None:
        self._catalog.note_gateway(repository.repository_id, Fared(name, connect_s, away, time.time()))
