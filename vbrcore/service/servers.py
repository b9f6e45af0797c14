"""Managed servers: added over SSH, shown with how they are and how much of them is in use, changed, removed."""

import asyncio
import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from vbrcore.api import operations, servers, types
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import AlreadyExists, CanNeverRun, InUse, InvalidValue, NotFound
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import LOCAL_SERVER, Hypervisor, Server, ServerRole, SshAccess
from vbrcore.model.serverfacts import ServerFacts, ServerState
from vbrcore.secrets.secret import Secret
from vbrcore.service.balancing import check_can_be_used, check_can_run
from vbrcore.service.looking import look_at_hypervisors
from vbrcore.service.routes import Call, Routes
from vbrcore.service.serverchecks import findings
from vbrcore.service.serverwatch import look_at
from vbrcore.service.values import check_name, moment
from vbrcore.transport.ssh import fingerprint, probe_host_key

_MOST_SLOTS = 10_000
_LEAST_BUDGET = 2
_LONGEST_TEXT = 253


def add_routes(routes: Routes) -> None:
    routes.add(operations.SERVER_PROBE, _probe)
    routes.add(operations.SERVER_ADD, _add)
    routes.add(operations.SERVER_LIST, _list)
    routes.add(operations.SERVER_SHOW, _show)
    routes.add(operations.SERVER_CHECK, _check)
    routes.add(operations.SERVER_EDIT, _edit)
    routes.add(operations.SERVER_REMOVE, _remove)


def find_server(catalog: Catalog, name: str) -> Server:
    """Return a server by name or id."""
    try:
        return catalog.server_by_name(name)
    except NotFound as error:
        try:
            return catalog.server(name)
        except NotFound:
            raise error from None


async def _probe(_call: Call, request: servers.HostKeyProbe) -> servers.HostKeyView:
    _check_host(request.host, request.port)
    key = await probe_host_key(request.host, request.port)
    return servers.HostKeyView(key, fingerprint(key))


async def _add(call: Call, request: servers.ServerAdd) -> servers.ServerView:
    """Log in before anything is kept: what cannot be reached, or refuses us, is not added."""
    catalog = call.service.catalog
    check_name(request.name)
    _check_host(request.host, request.port)
    if not request.user.isprintable() or not 1 <= len(request.user) <= _LONGEST_TEXT:
        raise InvalidValue(f"{request.user[:_LONGEST_TEXT]!r} is no user")
    if any(one.name == request.name for one in await asyncio.to_thread(catalog.servers)):
        raise AlreadyExists(f"there is a server {request.name} already")
    fingerprint(request.host_key)
    if (request.login == "agent") == bool(request.secret):
        raise InvalidValue("a login by identity or password needs that secret, one by an agent has none")
    server = Server(
        server_id=new_id(),
        name=request.name,
        roles=tuple(dict.fromkeys(request.roles)),
        proxy_slots=1,
        host_budget=_LEAST_BUDGET,
        site=request.site,
        ssh=SshAccess(request.host, request.user, request.host_key, request.port, request.login),
        address=request.address,
        ports=request.ports,
        dials_only=request.dials_only,
    )
    _check_settings(server)
    secrets: dict[str, Secret] = {request.login: Secret(request.secret)} if request.secret else {}
    facts = await look_at(server, secrets)
    slots = _slots(facts) if request.slots is None else request.slots
    server = msgspec.structs.replace(
        server,
        proxy_slots=slots if "proxy" in server.roles else 0,
        host_budget=max(slots, _slots(facts)) if request.host_budget is None else request.host_budget,
    )
    _check_settings(server)
    await asyncio.to_thread(_keep, catalog, server, secrets, facts)
    return await asyncio.to_thread(_view_of, catalog, server.server_id)


def _keep(catalog: Catalog, server: Server, secrets: dict[str, Secret], facts: ServerFacts) -> None:
    catalog.add_server(server, secrets)
    catalog.note_server_there(server.server_id, facts)


def _slots(facts: ServerFacts) -> int:
    return max(_LEAST_BUDGET, facts.cores)


def _list(call: Call, _request: types.Nothing) -> tuple[servers.ServerView, ...]:
    catalog = call.service.catalog
    used, states = catalog.usage(), catalog.server_states()
    hypervisors = catalog.hypervisors()
    return tuple(_view(one, states.get(one.server_id), used, hypervisors) for one in catalog.servers())


def _show(call: Call, request: types.ByName) -> servers.ServerView:
    catalog = call.service.catalog
    return _view_of(catalog, find_server(catalog, request.name).server_id)


async def _check(call: Call, request: types.ByName) -> servers.ServerView:
    catalog = call.service.catalog
    server = await asyncio.to_thread(find_server, catalog, request.name)
    await call.service.servers.check(server)
    tied = [one for one in await asyncio.to_thread(catalog.hypervisors) if one.server == server.name]
    found = await look_at_hypervisors(call.service.home, tied)
    await asyncio.to_thread(catalog.note_hypervisors, server.server_id, found)
    return await asyncio.to_thread(_view_of, catalog, server.server_id)


async def _edit(call: Call, request: servers.ServerEdit) -> servers.ServerView:
    view = await asyncio.to_thread(_change, call.service.catalog, request)
    call.service.poke()
    return view


def _change(catalog: Catalog, request: servers.ServerEdit) -> servers.ServerView:
    """Change what was named. Raises `CanNeverRun` where a job could not run any more."""
    server = find_server(catalog, request.name)
    asked = {
        "roles": None if request.roles is None else tuple(dict.fromkeys(request.roles)),
        "proxy_slots": request.slots,
        "host_budget": request.host_budget,
        "site": request.site,
        "address": request.address,
        "ports": request.ports,
        "dials_only": request.dials_only,
    }
    changes = {name: value for name, value in asked.items() if value is not None}
    if not changes:
        raise InvalidValue("nothing is to be changed")
    changed = msgspec.structs.replace(server, **changes)
    _check_settings(changed)
    before = catalog.servers()
    after = tuple(changed if one.server_id == server.server_id else one for one in before)
    if lost := _jobs_that_run(catalog, before) - _jobs_that_run(catalog, after):
        raise CanNeverRun(f"job {', '.join(sorted(lost))} could never run any more")
    _check_repositories(catalog, changed)
    catalog.update_server(server.server_id, **changes)
    return _view_of(catalog, server.server_id)


def _check_repositories(catalog: Catalog, server: Server) -> None:
    """Raise `InUse` where a server is to lose the role that its repositories need."""
    theirs = [one.name for one in catalog.repositories() if one.server == server.name]
    if theirs and "repository" not in server.roles:
        raise InUse(f"server {server.name} has repository {', '.join(theirs)}: it keeps that role")


def _jobs_that_run(catalog: Catalog, inventory: tuple[Server, ...]) -> set[str]:
    """Return the names of the jobs that could run with these servers, if everything else was gone."""
    found = set[str]()
    for job in catalog.jobs():
        try:
            repository = catalog.repository(job.repository_id)
            if job.is_copy:
                check_can_be_used(repository, inventory)
            else:
                check_can_run(repository, inventory, job.proxies)
        except (CanNeverRun, NotFound):
            continue
        found.add(job.name)
    return found


def _remove(call: Call, request: types.Remove) -> types.Nothing:
    catalog = call.service.catalog
    server = find_server(catalog, request.name)
    if server.ssh is None:
        raise InUse(f"server {server.name} is this machine: it stays, 'server edit' takes roles and slots from it")
    if users := tuple(_users(catalog, server)):
        raise InUse(f"server {server.name} is used by {', '.join(users)}")
    catalog.remove_server(server.server_id)
    return types.Nothing()


def _users(catalog: Catalog, server: Server) -> Iterable[str]:
    """Name what in the inventory names a server."""
    for hypervisor in catalog.hypervisors():
        if hypervisor.server == server.name:
            yield f"hypervisor {hypervisor.name}"
    for repository in catalog.repositories():
        if server.name in {repository.server, *repository.proxy_affinity, *repository.gateways}:
            yield f"repository {repository.name}"
    for job in catalog.jobs():
        if server.name in job.proxies:
            yield f"job {job.name}"


# --- values -----------------------------------------------------------------------------------------


def _check_host(host: str, port: int) -> None:
    if not 1 <= len(host) <= _LONGEST_TEXT or not host.isprintable() or " " in host or host.startswith("-"):
        raise InvalidValue(f"{host[:_LONGEST_TEXT]!r} is no name or address of a host")
    if not 1 <= port <= 65535:
        raise InvalidValue(f"{port} is no port: 1 to 65535")


def _check_settings(server: Server) -> None:
    low, high = server.ports
    if not 1024 <= low <= high <= 65535:
        raise InvalidValue(f"data ports {low}-{high}: give LO-HI within 1024 to 65535")
    roles: tuple[ServerRole, ...] = server.roles
    lowest = 1 if "proxy" in roles else 0
    if not lowest <= server.proxy_slots <= _MOST_SLOTS:
        raise InvalidValue(f"a proxy has {lowest} to {_MOST_SLOTS} slots, not {server.proxy_slots}")
    if not 1 <= server.host_budget <= _MOST_SLOTS:
        raise InvalidValue(f"a host budget is 1 to {_MOST_SLOTS}, not {server.host_budget}")
    if server.site:
        check_name(server.site)
    if server.address:
        _check_host(server.address, low)
    if server.dials_only and server.ssh is None:
        raise InvalidValue(f"server {LOCAL_SERVER} is where all others dial: it cannot only dial out")


# --- views ------------------------------------------------------------------------------------------


def _view_of(catalog: Catalog, server_id: str) -> servers.ServerView:
    state = catalog.server_states().get(server_id)
    return _view(catalog.server(server_id), state, catalog.usage(), catalog.hypervisors())


def _view(
    server: Server, state: ServerState | None, used: Counter[str], hypervisors: Iterable[Hypervisor]
) -> servers.ServerView:
    state = state or ServerState(server.server_id)
    ssh, facts = server.ssh, state.facts
    view = servers.ServerView(
        server_id=server.server_id,
        name=server.name,
        roles=server.roles,
        site=server.site,
        proxy_slots=server.proxy_slots,
        proxy_slots_used=used[f"proxy:{server.server_id}"],
        host_budget=server.host_budget,
        host_budget_used=used[f"host:{server.server_id}"],
        ssh="" if ssh is None else f"{ssh.user}@{ssh.host}:{ssh.port}",
        login="" if ssh is None else ssh.login,
        host_key="" if ssh is None else fingerprint(ssh.host_key),
        address=server.data_address,
        ports=server.ports,
        dials_only=server.dials_only,
        state="away" if state.away else "ok" if facts is not None or ssh is None else "unchecked",
        reason=state.away,
        next_try=moment(max(state.next_try, time.time())) if state.away else None,
        checked=moment(state.checked),
    )
    if facts is None:
        return view
    return msgspec.structs.replace(
        view,
        os=facts.os,
        machine=facts.machine,
        python=facts.python,
        bundle=facts.bundle,
        connect_s=facts.connect_s,
        clock_offset_s=facts.clock_offset_s,
        free_bytes=facts.free_bytes,
        findings=findings(server, facts, hypervisors),
    )
