"""Who gets what now, and why the others wait. Pure: the same values give the same decisions."""

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from vbrcore.balancer.demand import Demand, Grant, Pending, Wait
from vbrcore.balancer.queue import RESERVATION_AFTER_S, Queue
from vbrcore.balancer.room import Capacities, Closed

__all__ = ["RESERVATION_AFTER_S", "Capacities", "Closed", "Decisions", "Pending", "decide", "units_taken"]


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
    queue = Queue(capacities, held, pending, now)
    granted = queue.grant(now)
    return Decisions(granted.grants, queue.waits(), granted.passed)
