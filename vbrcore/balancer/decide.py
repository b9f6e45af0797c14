"""Who gets what now, and why the others wait. Pure: the same values give the same decisions."""

from collections.abc import Mapping, Sequence

from vbrcore.balancer.demand import Decisions, Pending, units_taken
from vbrcore.balancer.queue import RESERVATION_AFTER_S, Queue
from vbrcore.balancer.room import Capacities, Closed

__all__ = ["RESERVATION_AFTER_S", "Capacities", "Closed", "Decisions", "Pending", "decide", "units_taken"]


def decide(capacities: Capacities, held: Mapping[str, int], pending: Sequence[Pending], now: float) -> Decisions:
    """Grant what fits, in order of rank. `held`: units taken of each resource; `now`: seconds since the epoch."""
    queue = Queue(capacities, held, pending, now)
    granted = queue.grant(now)
    return Decisions(granted.grants, queue.waits(), granted.passed)
