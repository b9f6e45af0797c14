"""The order in which demands are looked at."""

from collections.abc import Callable, Iterable
from typing import TypeVar

from vbrcore.balancer.demand import RANK_OPEN_MACHINE, Demand

T = TypeVar("T")

START_SCHEDULED = 30
START_MANUAL = 10
AGEING_PER_QUARTER = 25  # 100 per hour
AGEING_ENDS_AT = 690
QUARTER_S = 900.0


def rank(demand: Demand, now: float) -> int:
    """Return class + start + ageing. Ageing goes by quarters of an hour, so that equals stay equals while they age."""
    if demand.class_rank == RANK_OPEN_MACHINE:
        return RANK_OPEN_MACHINE
    base = demand.class_rank + (START_MANUAL if demand.manual else START_SCHEDULED)
    quarters = max(0, _quarter(now) - _quarter(demand.created))
    return max(base, min(base + quarters * AGEING_PER_QUARTER, AGEING_ENDS_AT))


def order(items: Iterable[T], now: float, key: Callable[[T], Demand]) -> list[T]:
    """Sort: rank, then sessions by the quarter of an hour in which they started, then the longest disk first."""

    def sort_key(item: T) -> tuple[int, int, int, float, str]:
        demand = key(item)
        started = _quarter(demand.session_started)
        return -rank(demand, now), started, -demand.expected_bytes, demand.created, demand.demand_id

    return sorted(items, key=sort_key)


def _quarter(time_s: float) -> int:
    return int(time_s // QUARTER_S)
