"""Who gets what now, and why the others wait. Pure: the same values give the same decisions.

Demands are looked at in the order of their rank. A lower one may pass one that cannot start yet; one that was passed
for ten minutes gets a reservation: units of its set that come free are kept for it.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from vbrcore.balancer.demand import Choice, Demand, Grant, Wait
from vbrcore.balancer.rank import order

RESERVATION_AFTER_S = 600.0

# Resources that exist by being named; all others must have a limit.
_IMPLIED_LIMITS = {"chain": 1, "machine": 1, "datastore": 4}
_REASONS = {
    "chain": "chain_in_use",
    "machine": "machine_in_use",
    "datastore": "datastore_snapshot_limit",
    "repository": "no_free_repository_slot",
    "proxy": "no_free_proxy_slot",
    "host": "host_budget_used",
}
_PHRASES = {
    "chain_in_use": "another session writes this chain",
    "machine_in_use": "another session holds this machine",
    "datastore_snapshot_limit": "as many snapshots as allowed are open on this datastore",
    "no_free_repository_slot": "all slots of the repository are taken",
    "no_free_proxy_slot": "all slots of the proxy are taken",
    "host_budget_used": "the server takes part in as many tasks as it may",
    "no_proxy": "there is no server that could run it",
    "reserved_for": "free units are kept for a demand that was passed for too long",
}
# Whoever waits for one of these could not use slots that are kept for it.
_NOT_RESERVABLE = frozenset({"chain_in_use", "machine_in_use", "no_proxy"})


class Closed(msgspec.Struct, frozen=True):
    """Why a resource takes nothing new now, whatever is free: e.g. `repository_below_reserve`.

    `to_writers`: only to demands that write, so that what is there can still be restored.
    """

    reason: str
    detail: str
    to_writers: bool = False


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
        return self.limits.get(resource, _IMPLIED_LIMITS.get(_kind(resource), 0))


class Pending(msgspec.Struct, frozen=True):
    """A demand that waits. `passed_since`: when a lower one first started before it; None: never."""

    demand: Demand
    passed_since: float | None = None


class Decisions(msgspec.Struct, frozen=True):
    """What to grant, why each other demand waits, and which of these were passed by a lower one now."""

    grants: tuple[Grant, ...]
    waits: tuple[Wait, ...]
    passed: frozenset[str]


def units_taken(demand: Demand, grant: Grant) -> Iterator[tuple[str, str]]:
    """Yield (scope, resource) of every unit that a grant takes."""
    choice = next((one for one in demand.choices if (one.server, one.mode) == (grant.server, grant.mode)), None)
    for unit in (*demand.units, *(choice.units if choice else ())):
        yield demand.scope, unit.resource
    for unit in demand.machine_units:
        yield demand.machine_scope, unit.resource


def decide(capacities: Capacities, held: Mapping[str, int], pending: Sequence[Pending], now: float) -> Decisions:
    """Grant what fits, in order of rank. `held`: units taken of each resource; `now`: seconds since the epoch."""
    room = _Room(capacities, held)
    grants: list[Grant] = []
    waits: list[Wait] = []
    passed: set[str] = set()
    for one in order(pending, now, key=lambda item: item.demand):
        demand = one.demand
        choice = room.choose(demand)
        if isinstance(choice, Closed):
            waits.append(Wait(demand.demand_id, choice.reason, choice.detail, len(waits) + 1))
            if one.passed_since is not None and now - one.passed_since >= RESERVATION_AFTER_S:
                room.reserve(demand, choice.reason)
            continue
        passed.update(wait.demand_id for wait in waits)
        room.take(_needs(demand, choice))
        grants.append(Grant(demand.demand_id, choice.server, choice.mode))
    return Decisions(tuple(grants), tuple(waits), frozenset(passed))


_NO_CHOICE = Choice("", "", ())


class _Room:
    """What is free, less what is kept for reservations."""

    def __init__(self, capacities: Capacities, held: Mapping[str, int]) -> None:
        self._capacities = capacities
        self._used = Counter(held)
        self._reserved: Counter[str] = Counter()

    def choose(self, demand: Demand) -> Choice | Closed:
        """Return the best choice that fits now (an empty one where none is needed), or why none does."""
        if (missing := self._missing(demand, _NO_CHOICE)) is not None:
            return missing
        if not demand.choices:
            return _NO_CHOICE
        why: list[Closed] = []
        modes = list(dict.fromkeys(choice.mode for choice in demand.choices))
        for choice in sorted(demand.choices, key=lambda one: (modes.index(one.mode), -self._free_share(one))):
            missing = self._missing(demand, choice)
            if missing is None:
                return choice
            why.append(missing)
        return min(why, key=_distance)

    def take(self, needs: Counter[str]) -> None:
        self._used.update(needs)

    def reserve(self, demand: Demand, reason: str) -> None:
        """Keep the set of a demand from lower ones, unless it shares a resource with an earlier reservation."""
        possible = (choice for choice in demand.choices if self._can_ever_run(demand, choice))
        needs = _needs(demand, next(possible, _NO_CHOICE))
        useless = reason in _NOT_RESERVABLE or any(name in self._capacities.closed for name in needs)
        if not useless and not any(name in self._reserved for name in needs):
            self._reserved.update(needs)

    def _can_ever_run(self, demand: Demand, choice: Choice) -> bool:
        return all(count <= self._capacities.limit(name) for name, count in _needs(demand, choice).items())

    def _missing(self, demand: Demand, choice: Choice) -> Closed | None:
        """Return the first thing that is not free, exclusive resources before slots; None: all is."""
        needs = _needs(demand, choice)
        for resource in needs:
            closed = self._capacities.closed.get(resource)
            writes = demand.writes and resource not in demand.only_read
            if closed is not None and (writes or not closed.to_writers):
                return closed
        for resource in needs:
            limit = self._capacities.limit(resource)
            if needs[resource] > limit:
                return Closed(
                    "no_proxy", f"{_PHRASES['no_proxy']}: {self._capacities.label(resource)} has {limit} units"
                )
            if needs[resource] > limit - self._used[resource]:
                reason = _REASONS[_kind(resource)]
                return Closed(reason, f"{_PHRASES[reason]} ({self._capacities.label(resource)}: {limit} of {limit})")
        for resource in needs:
            if needs[resource] > self._capacities.limit(resource) - self._used[resource] - self._reserved[resource]:
                return Closed("reserved_for", f"{_PHRASES['reserved_for']} ({self._capacities.label(resource)})")
        return None

    def _free_share(self, choice: Choice) -> float:
        """Return free / all units of the choice's first resource: the least loaded server comes first."""
        if not choice.units:
            return 1.0
        resource = choice.units[0].resource
        limit = self._capacities.limit(resource)
        return (limit - self._used[resource]) / limit if limit else 0.0


def _needs(demand: Demand, choice: Choice) -> Counter[str]:
    """Count the units of a demand with a choice: the machine's first, because these are the rarest."""
    return Counter(unit.resource for unit in (*demand.machine_units, *demand.units, *choice.units))


def _distance(why: Closed) -> int:
    """Order the reasons of a demand's choices: that of the server which is nearest to taking it comes first."""
    return {"reserved_for": 0, "no_proxy": 2}.get(why.reason, 1)


def _kind(resource: str) -> str:
    return resource.partition(":")[0]
