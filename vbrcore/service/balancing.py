"""The balancer's shell: what there is room for, from the inventory and the state of the repositories."""

import functools
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from vbrcore.balancer.candidates import server_units
from vbrcore.balancer.decide import Capacities, Closed, decide
from vbrcore.balancer.demand import CLASS_REGULAR, Choice, Demand, window_gate
from vbrcore.balancer.feasibility import why_never
from vbrcore.catalog.catalog import Catalog
from vbrcore.manager.gateways import candidates
from vbrcore.model.errors import CanNeverRun, NoRoute, VbrError
from vbrcore.model.inventory import Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.routes import has_route
from vbrcore.model.serverfacts import ServerState
from vbrcore.model.window import is_open, opening
from vbrcore.model.zones import zone_named
from vbrcore.storage.repository import Space, open_repository, space_of
from vbrcore.transport.storages import is_here

ClosedElsewhere = Callable[[Repository], Closed | None]


def default_slots() -> int:
    """Return how many tasks this machine takes part in at once: as many as it has cores, at least 2.

    A task costs one unit of the host budget also where this machine is proxy and repository, so 2 cores run 2 disks.
    """
    return max(2, os.cpu_count() or 2)


def balance(catalog: Catalog, elsewhere: ClosedElsewhere) -> int:
    """Grant what fits; return how many grants were made."""
    if not catalog.is_asked():
        return 0
    return catalog.balance(functools.partial(decide, capacities_of(catalog, elsewhere)))


def capacities_of(catalog: Catalog, elsewhere: ClosedElsewhere) -> Capacities:
    """Return what there is room for at all, and what takes nothing new now; `elsewhere`: as last seen, of others."""
    servers, repositories = catalog.servers(), catalog.repositories()
    closed = {f"repository:{one.repository_id}": why for one in repositories if (why := _closed(one, elsewhere))}
    closed |= away(servers, catalog.server_states()) | shut(catalog.jobs_with_windows(), time.time())
    return Capacities(_limits(servers, repositories), closed, _labels(servers, repositories))


def away(servers: Iterable[Server], states: Mapping[str, ServerState]) -> dict[str, Closed]:
    """Close what a server has that could not be reached, until it answers."""
    closed: dict[str, Closed] = {}
    for server in servers:
        state = states.get(server.server_id)
        if state is not None and state.away:
            why = Closed("server_away", f"server {server.name} could not be reached: {state.away}")
            closed |= {f"proxy:{server.server_id}": why, f"host:{server.server_id}": why}
    return closed


def shut(jobs: Iterable[Job], now: float) -> dict[str, Closed]:
    """Close the gates of jobs whose window is shut: until it opens they begin no machine by schedule."""
    closed = {}
    for job in jobs:
        window, zone = job.schedule.window, zone_named(job.schedule.window.zone)
        if not is_open(window, now, zone):
            detail = f"the window of job {job.name} is open from {window.begin} to {window.end} ({window.zone})"
            closed[window_gate(job.job_id)] = Closed("outside_window", detail, until=opening(window, now, zone))
    return closed


def check_can_run(repository: Repository, servers: tuple[Server, ...], proxies: Collection[str] = ()) -> None:
    """Raise `CanNeverRun` where no task of a job could ever have all that it needs. `proxies`: the job's own list.

    Raises `NoRoute` where the data of none of them could go to the repository.
    """
    beside = check_can_be_used(repository, servers)
    listed = tuple(one for one in servers if not proxies or one.name in proxies)
    able = tuple(one for one in listed if "proxy" in one.roles)
    # The gateway of a share is chosen by each session, and its proxies with it.
    if able and not repository.is_share and not any(has_route(one, beside) for one in able):
        names = ", ".join(one.name for one in able)
        raise NoRoute(f"repository {repository.name} is on {beside.name}, which only dials, and so does {names}")
    choices = tuple(Choice(one.name, "", server_units(one.server_id, (beside.server_id,))) for one in listed)
    disk = Demand("", "", "task", "", 0.0, CLASS_REGULAR, manual=False, choices=choices)
    if why := why_never(Capacities(_limits(servers, (repository,)), {}, _labels(servers, (repository,))), disk):
        raise CanNeverRun(f"there is no proxy that could ever take a disk of it: {why}")


def check_can_be_used(repository: Repository, servers: tuple[Server, ...]) -> Server:
    """Return the server beside a repository. Raise `CanNeverRun` where no task could ever have a place there."""
    if repository.slots < 1:
        raise CanNeverRun(f"repository {repository.name} has no slots")
    if repository.is_share:
        beside = max(candidates(repository, servers), key=lambda one: one.host_budget, default=None)
        what = f"a gateway of repository {repository.name}"
    else:
        beside = next((one for one in servers if one.name == repository.server), None)
        what = f"the server {repository.server} of repository {repository.name}"
    if beside is None or beside.host_budget < 1:
        raise CanNeverRun(f"{what} may take part in no task")
    return beside


def _limits(servers: tuple[Server, ...], repositories: tuple[Repository, ...]) -> dict[str, int]:
    limits = {f"repository:{repository.repository_id}": repository.slots for repository in repositories}
    for server in servers:
        limits[f"host:{server.server_id}"] = server.host_budget
        limits[f"proxy:{server.server_id}"] = server.proxy_slots if "proxy" in server.roles else 0
    return limits


def _labels(servers: tuple[Server, ...], repositories: tuple[Repository, ...]) -> dict[str, str]:
    labels = {f"repository:{repository.repository_id}": f"repository {repository.name}" for repository in repositories}
    for server in servers:
        labels[f"host:{server.server_id}"] = f"server {server.name}"
        labels[f"proxy:{server.server_id}"] = f"proxy {server.name}"
    return labels


def _closed(repository: Repository, elsewhere: ClosedElsewhere) -> Closed | None:
    """What stands elsewhere is looked at in the background; nothing here may wait for it."""
    if not is_here(repository):
        return elsewhere(repository)
    try:
        storage = open_repository(Path(repository.path), repository.repository_id)
        space = space_of(storage, repository.reserve_bytes)
    except VbrError as error:
        return Closed(error.code, str(error))
    return below_reserve(repository, space)


def below_reserve(repository: Repository, space: Space | None) -> Closed | None:
    """Say that a repository is too full to be written to; None: it is not."""
    if space is None or not space.below_reserve:
        return None
    return Closed(
        "repository_below_reserve",
        f"repository {repository.name} has {space.free_bytes} bytes free, less than its reserve of"
        f" {space.reserve_bytes}",
        to_writers=True,
    )
