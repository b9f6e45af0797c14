"""Which servers can move a disk, in which order, and why the others cannot."""

from collections.abc import Collection, Iterable, Sequence

import msgspec

from vbrcore.balancer import words
from vbrcore.balancer.demand import Choice, Excluded, Grant, Unit

# What lacking it costs: the first weighs more than all later ones. The least loaded is found at the decision.
_MERITS = {"own_host": 8, "same_site": 4, "repository_site": 2, "affinity": 1}


class Proxy(msgspec.Struct, frozen=True):
    """A managed server as the machine at hand sees it: `modes` are those its plugin offers there, in any order.

    `is_fit`: as far as is known, a mover can run there.
    """

    server_id: str
    name: str
    site: str = ""
    is_proxy: bool = True
    is_fit: bool = True
    slots: int = 1
    modes: tuple[str, ...] = ()
    has_route: bool = True  # its data can go to the repository's server


class Wishes(msgspec.Struct, frozen=True):
    """What a job and a machine ask for. `modes`: all of the plugin, best first. Names are those of servers.

    `only`: the job's list of proxies (empty: any). `affinity`: those the repository prefers. `own_host`: the server
    where the machine runs. `site`: that of the machine, `repository_site`: where its backup is written ("": no site).
    """

    modes: tuple[str, ...]
    site: str = ""
    repository_site: str = ""
    own_host: str = ""
    affinity: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


class Candidates(msgspec.Struct, frozen=True):
    choices: tuple[Choice, ...]
    excluded: tuple[Excluded, ...]


def candidates(proxies: Iterable[Proxy], wishes: Wishes, repository_server_id: str) -> Candidates:
    """Order: best transport mode, own host, the machine's site, the repository's site, affinity; then the least loaded.

    A server that is away stays a candidate: its resources are closed until it is back.
    """
    found: list[tuple[int, int, str, Choice]] = []
    excluded = []
    for proxy in proxies:
        if reason := _exclusion(proxy, wishes):
            excluded.append(Excluded(proxy.name, reason, words.EXCLUDED[reason]))
            continue
        merits = _merits(proxy, wishes)
        preference = sum(cost for code, cost in _MERITS.items() if merits.get(code) is False)
        units = server_units(proxy.server_id, (repository_server_id,))
        own = tuple(code for code, fulfilled in merits.items() if fulfilled)
        for place, mode in enumerate(wishes.modes):
            if mode in proxy.modes:
                found.append((place, preference, proxy.name, Choice(proxy.name, mode, units, preference, own)))
    found.sort(key=lambda one: one[:3])
    return Candidates(tuple(choice for *_, choice in found), tuple(excluded))


def without(found: Candidates, failed: Collection[str]) -> Candidates:
    """Leave out servers where an attempt failed, unless no other one is there."""
    left = tuple(choice for choice in found.choices if choice.server not in failed)
    if not left or len(left) == len(found.choices):
        return found
    names = dict.fromkeys(choice.server for choice in found.choices if choice.server in failed)
    excluded = tuple(Excluded(name, "failed_before", words.EXCLUDED["failed_before"]) for name in names)
    return Candidates(left, (*found.excluded, *excluded))


def why_taken(choices: Sequence[Choice], grant: Grant) -> str:
    """Say in words what decided for the choice that was granted."""
    taken = next(one for one in choices if (one.server, one.mode) == (grant.server, grant.mode))
    said = []
    if len({one.server for one in choices}) == 1:
        said.append(words.ONLY)
    best = choices[0].mode
    said.append(words.placement_words("best_mode") if taken.mode == best else words.WORSE_MODE.format(best=best))
    said += [words.placement_words(code) for code in taken.merits]
    rivals = [one for one in choices if one.mode == taken.mode and one.server != taken.server]
    if any(one.preference < taken.preference for one in rivals):
        said.append(words.OTHERS_TAKEN)
    elif any(one.preference == taken.preference for one in rivals):
        said.append(words.placement_words("least_loaded"))
    return "; ".join(said)


def ranked_modes(lists: Iterable[Sequence[str]]) -> tuple[str, ...]:
    """Merge what a plugin offers at each server, best first, into one order: ["a", "b"] and ["b"] give ("a", "b")."""
    orders = [list(one) for one in lists]
    merged: list[str] = []
    while left := list(dict.fromkeys(mode for order in orders for mode in order if mode not in merged)):
        behind = {mode for order in orders for mode in [one for one in order if one not in merged][1:]}
        merged.append(next((mode for mode in left if mode not in behind), left[0]))
    return tuple(merged)


def server_units(proxy_id: str, others: Sequence[str]) -> tuple[Unit, ...]:
    """One proxy slot, and one unit of the host budget of each server involved; one where it is both."""
    hosts = dict.fromkeys((proxy_id, *others))
    return (Unit(f"proxy:{proxy_id}"), *(Unit(f"host:{server_id}") for server_id in hosts))


def _exclusion(proxy: Proxy, wishes: Wishes) -> str:
    if wishes.only and proxy.name not in wishes.only:
        return "not_in_the_jobs_list"
    if not proxy.is_proxy:
        return "no_proxy_role"
    if proxy.slots < 1:
        return "no_slots"
    if not proxy.is_fit:
        return "server_unsuitable"
    if not proxy.has_route:
        return "no_route"
    return "" if any(mode in wishes.modes for mode in proxy.modes) else "no_transport_mode"


def _merits(proxy: Proxy, wishes: Wishes) -> dict[str, bool]:
    """Say of everything that is wished for whether the proxy has it."""
    wanted: dict[str, tuple[Collection[str], str]] = {
        "own_host": ((wishes.own_host,), proxy.name),
        "same_site": ((wishes.site,), proxy.site),
        "repository_site": ((wishes.repository_site,), proxy.site),
        "affinity": (wishes.affinity, proxy.name),
    }
    return {code: value in values for code, (values, value) in wanted.items() if any(values)}
