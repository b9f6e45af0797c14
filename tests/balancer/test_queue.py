"""A queue that goes on decides as a new one would that sees the same."""

from collections.abc import Iterable

import pytest

from tests.simulation.play import Play
from tests.simulation.world import make_world
from vbrcore.balancer.decide import Pending
from vbrcore.balancer.demand import CLASS_REGULAR, Choice, Demand, Unit
from vbrcore.balancer.queue import Granted, Queue
from vbrcore.balancer.room import Capacities

NOW = 1_800_000_000.0
NEVER = float("inf")


class _Compared(Queue):
    """Asks a new queue the same at each decision, and how often there was something to grant."""

    granted = 0

    def grant(self, now: float) -> Granted:
        pending = [Pending(entry.demand, entry.passed_since) for _, entry in self.waiting()]
        fresh = Queue(self.room.capacities, self.room.used, pending, now, reservation_after_s=NEVER)
        mine = super().grant(now)
        theirs = fresh.grant(now)
        assert (mine.grants, mine.passed) == (theirs.grants, theirs.passed)
        assert self.waits() == fresh.waits()
        _Compared.granted += len(mine.grants)
        return mine


@pytest.mark.parametrize("seed", range(4))
def test_what_was_remembered_changes_no_decision(seed: int) -> None:
    _Compared.granted = 0
    world = make_world(seed, disks=80, proxies=4, repositories=3)
    outcome = Play(world, lambda capacities, now: _Compared(capacities, {}, (), now, reservation_after_s=NEVER)).run()
    assert outcome.violations == []
    assert _Compared.granted >= 80


def demand(name: str, *resources: str, class_rank: int = CLASS_REGULAR) -> Demand:
    choice = Choice("p", "", tuple(map(Unit, resources)))
    return Demand(name, "s", "task", name, NOW, class_rank, False, choices=(choice,))


def granted(queue: Queue, now: float) -> list[str]:
    return [one.demand_id for one in queue.grant(now).grants]


def test_a_reservation_ends_with_the_demand_it_was_made_for() -> None:
    limits = Capacities({"proxy:p": 1, "proxy:q": 1})
    wide = Pending(demand("wide", "proxy:p", "proxy:q", class_rank=400), NOW - 600)

    def begun(pending: Iterable[Pending]) -> Queue:
        return Queue(limits, {"proxy:p": 1}, pending, NOW)

    queue = begun([wide, Pending(demand("low", "proxy:q"))])
    assert granted(queue, NOW) == []
    queue.withdraw("wide")
    assert granted(queue, NOW + 1) == ["low"]

    queue = begun([wide, Pending(demand("low", "proxy:q"))])
    assert granted(queue, NOW) == []
    queue.give_back(["proxy:p"])
    assert granted(queue, NOW + 1) == ["wide"]
    queue.give_back(["proxy:p", "proxy:q"])
    assert granted(queue, NOW + 2) == ["low"]
    assert len(queue) == 0
