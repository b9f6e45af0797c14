"""Which servers can move a disk, in which order, and why the others cannot."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from vbrcore.balancer.demand import Choice, Unit

# What a server is preferred for, the first before all later ones. The least loaded of equals is found at the decision.
_NOT_OWN_HOST, _OTHER_SITE, _NO_AFFINITY = 4, 2, 1


class Proxy(msgspec.Struct, frozen=True):
    """A managed server as the machine at hand sees it: `modes` are those its plugin offers there, in any order."""

    server_id: str
    name: str
    site: str = ""
    is_proxy: bool = True
    slots: int = 1
    modes: tuple[str, ...] = ()


class Wishes(msgspec.Struct, frozen=True):
    """What a job and a machine ask for. `modes`: all of the plugin, best first. Names are those of servers.

    `only`: the job's list of proxies (empty: any). `affinity`: those the repository prefers. `own_host`: the server
    where the machine runs. `site`: that of the machine ("": no site).
    """

    modes: tuple[str, ...]
    site: str = ""
    own_host: str = ""
    affinity: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Excluded(msgspec.Struct, frozen=True):
    """A server that is no candidate: `not_in_the_jobs_list`, `no_proxy_role`, `no_slots`, `no_transport_mode`."""

    server: str
    reason: str
    detail: str


class Candidates(msgspec.Struct, frozen=True):
    choices: tuple[Choice, ...]
    excluded: tuple[Excluded, ...]


def candidates(proxies: Iterable[Proxy], wishes: Wishes, repository_server_id: str) -> Candidates:
    """Order: best transport mode, own host, same site, affinity; then the least loaded, at the time of the decision.

    A server that is away stays a candidate: its resources are closed until it is back.
    """
    found: list[tuple[int, int, str, Choice]] = []
    excluded = []
    for proxy in proxies:
        if (why := _exclusion(proxy, wishes)) is not None:
            excluded.append(why)
            continue
        preference = _preference(proxy, wishes)
        units = server_units(proxy.server_id, (repository_server_id,))
        for place, mode in enumerate(wishes.modes):
            if mode in proxy.modes:
                found.append((place, preference, proxy.name, Choice(proxy.name, mode, units, preference)))
    found.sort(key=lambda one: one[:3])
    return Candidates(tuple(choice for *_, choice in found), tuple(excluded))


def server_units(proxy_id: str, others: Sequence[str]) -> tuple[Unit, ...]:
    """One proxy slot, and one unit of the host budget of each server involved; one where it is both."""
    hosts = dict.fromkeys((proxy_id, *others))
    return (Unit(f"proxy:{proxy_id}"), *(Unit(f"host:{server_id}") for server_id in hosts))


def _exclusion(proxy: Proxy, wishes: Wishes) -> Excluded | None:
    if wishes.only and proxy.name not in wishes.only:
        return Excluded(proxy.name, "not_in_the_jobs_list", "the job names other proxies")
    if not proxy.is_proxy:
        return Excluded(proxy.name, "no_proxy_role", "the server is no proxy")
    if proxy.slots < 1:
        return Excluded(proxy.name, "no_slots", "the proxy has no slots")
    if not any(mode in wishes.modes for mode in proxy.modes):
        return Excluded(proxy.name, "no_transport_mode", "no transport mode reaches the machine's disks from there")
    return None


def _preference(proxy: Proxy, wishes: Wishes) -> int:
    def missing(wanted: Collection[str], value: str, cost: int) -> int:
        return cost if any(wanted) and value not in wanted else 0

    return (
        missing((wishes.own_host,), proxy.name, _NOT_OWN_HOST)
        + missing((wishes.site,), proxy.site, _OTHER_SITE)
        + missing(wishes.affinity, proxy.name, _NO_AFFINITY)
    )
