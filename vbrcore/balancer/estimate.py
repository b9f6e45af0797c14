"""When what waits will start, if all goes as expected: the same decisions, played forward."""

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from vbrcore.balancer.demand import Demand, Grant, Pending
from vbrcore.balancer.queue import Queue
from vbrcore.balancer.rank import expected_s
from vbrcore.balancer.room import Capacities


class Running(msgspec.Struct, frozen=True):
    """Units that are held, one for each name, and when they are expected back (seconds since the epoch)."""

    resources: tuple[str, ...]
    ends: float


def estimate(
    capacities: Capacities, running: Iterable[Running], pending: Sequence[Pending], now: float
) -> dict[str, float]:
    """Return the seconds from now to each demand's start, by its id; one whose start nobody can tell is left out."""
    held = list(running)
    ends = [(max(one.ends, now), number, one.resources) for number, one in enumerate(held)]
    heapq.heapify(ends)
    demands = {one.demand.demand_id: one.demand for one in pending}
    queue = Queue(capacities, Counter(name for one in held for name in one.resources), pending, now)
    opens = sorted({one.until for one in capacities.closed.values() if one.until is not None and one.until > now})
    starts: dict[str, float] = {}
    at = now
    while len(queue):
        for grant in queue.grant(at).grants:
            demand = demands[grant.demand_id]
            starts[grant.demand_id] = at - now
            heapq.heappush(ends, (at + expected_s(demand), len(held) + len(starts), resources_of(demand, grant)))
        if not ends and not opens:
            break
        at = min(ends[0][0] if ends else opens[0], opens[0] if opens else ends[0][0])
        while ends and ends[0][0] <= at:
            queue.give_back(heapq.heappop(ends)[2])
        if opens and opens[0] <= at:
            opens.pop(0)
            queue.set_capacities(_open_at(capacities, at), at)
    return starts


def resources_of(demand: Demand, grant: Grant) -> tuple[str, ...]:
    """Return what a grant takes, one name for each unit."""
    choice = next((one for one in demand.choices if (one.server, one.mode) == (grant.server, grant.mode)), None)
    units = (*demand.machine_units, *demand.units, *(choice.units if choice else ()))
    return tuple(unit.resource for unit in units)


def _open_at(capacities: Capacities, at: float) -> Capacities:
    still = {name: why for name, why in capacities.closed.items() if why.until is None or why.until > at}
    return msgspec.structs.replace(capacities, closed=still)
