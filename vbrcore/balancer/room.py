"""What is free now, less what is kept for reservations."""

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from vbrcore.balancer.demand import Choice, Demand
from vbrcore.balancer.rank import Key

# Resources that exist by being named; all others must have a limit.
_IMPLIED_LIMITS = {"chain": 1, "machine": 1, "datastore": 4}
_REASONS = {
    "chain": "chain_in_use",
    "machine": "machine_in_use",
    "datastore": "datastore_snapshot_limit",
    "repository": "no_free_repository_slot",
    "proxy": "no_free_proxy_slot",
    "host": "host_budget_used",
    "gateway": "no_free_gateway_slot",
}
PHRASES = {
    "chain_in_use": "another session writes this chain",
    "machine_in_use": "another session holds this machine",
    "datastore_snapshot_limit": "as many snapshots as allowed are open on this datastore",
    "no_free_repository_slot": "all slots of the repository are taken",
    "no_free_proxy_slot": "all slots of the proxy are taken",
    "host_budget_used": "the server takes part in as many tasks as it may",
    "no_free_gateway_slot": "all slots of the gateway are taken",
    "no_proxy": "there is no server that could run it",
    "reserved_for": "free units are kept for a demand that was passed for too long",
}


class Closed(msgspec.Struct, frozen=True):
    """Why a resource takes nothing new now, whatever is free: e.g. `repository_below_reserve`.

    `to_writers`: only to demands that write, so that what is there can still be restored. `until`: when it opens again,
    seconds since the epoch; None: nobody knows.
    """

    reason: str
    detail: str
    to_writers: bool = False
    until: float | None = None

    def to(self, demand: Demand, resource: str) -> bool:
        """Return whether this resource is closed to this demand."""
        return (demand.writes and resource not in demand.only_read) or not self.to_writers


class Capacities(msgspec.Struct, frozen=True):
    """`limits`: units of each resource that has a limit of its own; `closed`: those that take nothing new.

    `labels`: what people call a resource, e.g. `repository main` for `repository:<id>`.
    """

    limits: dict[str, int]
    closed: dict[str, Closed] = {}
    labels: dict[str, str] = {}

    def label(self, resource: str) -> str:
        return self.labels.get(resource, resource)

    def limit(self, resource: str) -> int:
        return self.limits.get(resource, _IMPLIED_LIMITS.get(kind_of(resource), 0))


class Room:
    """Units taken and kept. A unit that is kept is free only for those who come before whom it is kept for.

    `full`: the resources of which not a single unit is left; of what has a limit of none, only those that were named.
    """

    def __init__(self, capacities: Capacities, held: Mapping[str, int]) -> None:
        self.capacities = capacities
        self.used = Counter(held)
        self.kept: dict[str, tuple[Key, int]] = {}
        self._limits = dict(capacities.limits)
        self.full = {name for name in (*capacities.limits, *self.used) if self.is_full(name)}

    def take(self, resource: str) -> None:
        """Take one unit, whether there is one or not."""
        self.used[resource] += 1
        if self.is_full(resource):
            self.full.add(resource)

    def give_back(self, resource: str) -> None:
        """Free one unit."""
        self.used[resource] -= 1
        if not self.is_full(resource):
            self.full.discard(resource)

    def limit(self, resource: str) -> int:
        found = self._limits.get(resource)
        if found is None:
            found = self._limits[resource] = self.capacities.limit(resource)
        return found

    def takes_nothing(self, demand: Demand, needs: Iterable[tuple[str, int]]) -> bool:
        """Return whether something of it is closed to a demand, or has fewer units than are needed."""
        closed = self.capacities.closed
        return any(
            count > self.limit(name) or (name in closed and closed[name].to(demand, name)) for name, count in needs
        )

    def is_full(self, resource: str, count: int = 1) -> bool:
        return count > self.limit(resource) - self.used.get(resource, 0)

    def first_full(self, needs: Iterable[tuple[str, int]]) -> str:
        """Return the first resource that lacks units; "": none does. All have a limit."""
        for resource, count in needs:
            if resource in self.full or (count > 1 and self.is_full(resource, count)):
                return resource
        return ""

    def first_kept(self, needs: Iterable[tuple[str, int]], key: Key) -> str:
        """Return the first resource whose free units are kept for somebody who comes before `key`; "": none."""
        if self.kept:
            for resource, count in needs:
                kept = self.kept_before(resource, key)
                if kept and count > self.limit(resource) - self.used[resource] - kept:
                    return resource
        return ""

    def kept_before(self, resource: str, key: Key) -> int:
        """Return how many units are kept for somebody who comes before `key`."""
        kept_for = self.kept.get(resource)
        return 0 if kept_for is None or key <= kept_for[0] else kept_for[1]

    def keeps_any(self, resources: Iterable[str]) -> bool:
        """Return whether some of these resources are kept already: nobody else can have them kept."""
        return not self.kept.keys().isdisjoint(resources)

    def keep(self, needs: Mapping[str, int], key: Key) -> bool:
        """Keep units, unless some of these resources are kept already; return whether they are kept now."""
        if self.keeps_any(needs):
            return False
        self.kept.update((resource, (key, count)) for resource, count in needs.items())
        return True

    def free_share(self, choice: Choice) -> float:
        """Return free / all units of the choice's first resource: the least loaded server comes first."""
        if not choice.units:
            return 1.0
        resource = choice.units[0].resource
        limit = self.limit(resource)
        return (limit - self.used.get(resource, 0)) / limit if limit else 0.0

    def lack(self, demand: Demand, needs: Mapping[str, int], key: Key) -> Closed | None:
        """Return in words the first thing that stands in the way, in the order of `needs`; None: nothing does."""
        for resource in needs:
            closed = self.capacities.closed.get(resource)
            if closed is not None and closed.to(demand, resource):
                return closed
        for resource, count in needs.items():
            limit, label = self.limit(resource), self.capacities.label(resource)
            if count > limit:
                return Closed("no_proxy", f"{PHRASES['no_proxy']}: {label} has {limit} units")
            if self.is_full(resource, count):
                reason = _REASONS[kind_of(resource)]
                return Closed(reason, f"{PHRASES[reason]} ({label}: {self.used[resource]} of {limit})")
        if resource := self.first_kept(needs.items(), key):
            return Closed("reserved_for", f"{PHRASES['reserved_for']} ({self.capacities.label(resource)})")
        return None


def nearest(why: Iterable[Closed]) -> Closed:
    """Return the reason of the choice that is nearest to taking a demand: kept units, then taken ones, then others."""
    return min(why, key=lambda one: 0 if one.reason == "reserved_for" else 1 if one.reason in _REASONS.values() else 2)


def kind_of(resource: str) -> str:
    return resource.partition(":")[0]
