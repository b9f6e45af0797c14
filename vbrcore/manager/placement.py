"""Which proxies can read the disks of a machine, and in what order they are asked: as a session sees it."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from vbrcore.balancer.candidates import Candidates, Proxy, Wishes, candidates, ranked_modes
from vbrcore.model.errors import CanNeverRun, NoRoute
from vbrcore.model.inventory import LOCAL_SERVER, Hypervisor, Machine, Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.routes import has_route
from vbrcore.plugins.api import ManagedHost, Plugin


class Placement(msgspec.Struct, frozen=True):
    """`servers`: all managed servers, as they were when the session began; `beside`: where its target mover runs.

    `unfit`: ids of those where no mover can run, as far as is known.
    """

    job: Job
    repository: Repository
    servers: tuple[Server, ...]
    beside: Server
    hypervisor: Hypervisor
    plugin: Plugin
    host: ManagedHost | None = None
    unfit: frozenset[str] = frozenset()

    def of(self, machine: Machine) -> Candidates:
        """Return the choices for each disk of a machine. Raises `CanNeverRun` where there are none, saying why."""
        modes = {one.name: self.plugin.transport_modes(machine, one.name, self.host) for one in self.servers}
        found = placed(
            self.job,
            self.repository,
            self._host(),
            servers=self.servers,
            beside=self.beside,
            modes=modes,
            unfit=self.unfit,
        )
        if not found.choices:
            if all(one.reason == "no_route" for one in found.excluded):
                raise NoRoute(f"no proxy can send the disks of {machine.name} to {self.beside.name}, which only dials")
            why = "; ".join(f"{one.server}: {one.detail}" for one in found.excluded)
            raise CanNeverRun(f"no proxy can read the disks of {machine.name} ({why})")
        return found

    def _host(self) -> str:
        """Return where machines stand. That a hypervisor which is no server is asked from here says nothing of it."""
        asked_here = self.plugin.info.proxy_mode == "separate" and self.hypervisor.server == LOCAL_SERVER
        return "" if asked_here else self.hypervisor.server


def placed(
    job: Job,
    repository: Repository,
    own_host: str,
    *,
    servers: Sequence[Server],
    beside: Server,
    modes: Mapping[str, Sequence[str]],
    unfit: Collection[str] = (),
) -> Candidates:
    """Return the candidates; `modes`: what the plugin offers at each server, by its name, best first.

    `own_host`: the server where the machine stands ("": nowhere in particular, its disks are read over a network).
    """
    host = next((one for one in servers if one.name == own_host), None)
    wishes = Wishes(
        modes=ranked_modes(modes[one.name] for one in servers),
        site=host.site if host is not None else "",
        repository_site=beside.site,
        own_host=own_host,
        affinity=repository.proxy_affinity,
        only=job.proxies,
    )
    proxies = (
        Proxy(
            server_id=one.server_id,
            name=one.name,
            site=one.site,
            is_proxy="proxy" in one.roles,
            is_fit=one.server_id not in unfit,
            slots=one.proxy_slots,
            modes=tuple(modes[one.name]),
            has_route=has_route(one, beside),
        )
        for one in servers
    )
    return candidates(proxies, wishes, beside.server_id)
