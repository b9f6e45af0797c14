"""The order in which demands are looked at."""

from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec

from vbrcore.balancer.demand import (
    CLASS_ARCHIVE,
    CLASS_CLEANUP,
    CLASS_COPY,
    CLASS_HIGH,
    CLASS_QUICK,
    CLASS_REGULAR,
    CLASS_RESTORE,
    RANK_OPEN_MACHINE,
    Demand,
)

T = TypeVar("T")
Key = tuple[int, int, float, float, str]

START_SCHEDULED = 30
START_MANUAL = 10
AGEING_PER_QUARTER = 25  # 100 per hour
AGEING_ENDS_AT = 690
QUARTER_S = 900.0
# What a task is expected to take where nobody knows better: that many bytes a second, and a start.
EXPECTED_BYTES_S = 100e6
EXPECTED_START_S = 5.0

_CLASSES = {
    "restore": CLASS_RESTORE,
    "verify": CLASS_RESTORE,
    "cleanup": CLASS_CLEANUP,
    "copy": CLASS_COPY,
    "archive": CLASS_ARCHIVE,
}


class RankParts(msgspec.Struct, frozen=True):
    """What a rank is made of; `rank` is their sum."""

    rank: int
    class_rank: int
    start: int
    ageing: int


def session_class(kind: str, *, high: bool = False, quick: bool = False) -> int:
    """Return the class of a session's tasks. `high`: its job has priority; `quick`: somebody waits for it.

    A merge, synthetic full or health check has the class of its job.
    """
    of_kind = _CLASSES.get(kind, CLASS_REGULAR)
    if of_kind > CLASS_QUICK:
        return of_kind
    return max(of_kind, CLASS_QUICK if quick else 0, CLASS_HIGH if high else 0)


def rank(demand: Demand, now: float) -> int:
    """Return class + start + ageing. Ageing goes by quarters of an hour, so that equals stay equals while they age."""
    return rank_parts(demand, now).rank


def rank_parts(demand: Demand, now: float) -> RankParts:
    if demand.class_rank == RANK_OPEN_MACHINE:
        return RankParts(RANK_OPEN_MACHINE, RANK_OPEN_MACHINE, 0, 0)
    start = START_MANUAL if demand.manual else START_SCHEDULED
    base = demand.class_rank + start
    quarters = max(0, quarter(now) - quarter(max(demand.created, demand.ages_from)))
    ageing = max(0, min(quarters * AGEING_PER_QUARTER, AGEING_ENDS_AT - base))
    return RankParts(base + ageing, demand.class_rank, start, ageing)


def expected_s(demand: Demand) -> float:
    """Return how long it is expected to run: as last time, else by its size."""
    return demand.expected_s or EXPECTED_START_S + demand.expected_bytes / EXPECTED_BYTES_S


def order_key(demand: Demand, now: float) -> Key:
    """Sort by it: rank, then sessions by the quarter of an hour in which they started, then the longest disk first.

    It stays the same for a quarter of an hour.
    """
    started = quarter(demand.session_started)
    return -rank(demand, now), started, -expected_s(demand), demand.created, demand.demand_id


def order(items: Iterable[T], now: float, key: Callable[[T], Demand]) -> list[T]:
    """Sort by `order_key`."""
    return sorted(items, key=lambda item: order_key(key(item), now))


def quarter(time_s: float) -> int:
    return int(time_s // QUARTER_S)
