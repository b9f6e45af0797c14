"""Simpler schedulers, to show in the same worlds what ours gains. They look at all that waits at each decision."""

import random
from collections.abc import Callable, Iterable

from vbrcore.balancer.demand import Choice, Demand, Grant, Pending
from vbrcore.balancer.queue import Granted, Queue
from vbrcore.balancer.room import Capacities, Room

_Pick = Callable[[list[Choice], int], Choice]


class Simple:
    """In the order in which they came, or drawn; `strict`: none passes one that cannot start."""

    def __init__(self, capacities: Capacities, pick: _Pick, *, draw: random.Random | None = None, strict: bool) -> None:
        self._room = Room(capacities, {})
        self._pick, self._draw, self._strict = pick, draw, strict
        self._waiting: list[Demand] = []
        self._granted = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, pending: Pending, now: float) -> None:  # noqa: ARG002 - a scheduler's
        self._waiting.append(pending.demand)

    def give_back(self, resources: Iterable[str]) -> None:
        self._room.used.subtract(resources)

    def set_capacities(self, capacities: Capacities, now: float) -> None:  # noqa: ARG002 - a scheduler's
        self._room = Room(capacities, self._room.used)

    def grant(self, now: float) -> Granted:  # noqa: ARG002 - a scheduler's
        waiting = list(self._waiting)
        if self._draw:
            self._draw.shuffle(waiting)
        grants = []
        blocked = set[tuple[object, ...]]()
        for demand in waiting:
            same = (demand.units, id(demand.choices), demand.machine_units, demand.gates)
            choice = None if same in blocked else self._choose(demand)
            if choice is not None:
                self._room.used.update(_names(demand, choice))
                grants.append(Grant(demand.demand_id, choice.server, choice.mode))
                self._granted += 1
            elif self._strict:
                break
            else:
                blocked.add(same)
        done = {grant.demand_id for grant in grants}
        self._waiting = [demand for demand in self._waiting if demand.demand_id not in done]
        return Granted(tuple(grants), frozenset())

    def _choose(self, demand: Demand) -> Choice | None:
        closed = self._room.capacities.closed

        def fits(names: Iterable[str]) -> bool:
            return not any(name in closed or self._room.is_full(name) for name in names)

        if any(gate in closed for gate in demand.gates):
            return None
        own = [unit.resource for unit in (*demand.machine_units, *demand.units)]
        if not fits(own):
            return None
        found = [choice for choice in demand.choices if fits(unit.resource for unit in choice.units)]
        return self._pick(found, self._granted) if found else None


def _names(demand: Demand, choice: Choice) -> list[str]:
    return [unit.resource for unit in (*demand.machine_units, *demand.units, *choice.units)]


def ours(capacities: Capacities, now: float) -> Queue:
    return Queue(capacities, {}, (), now)


def baselines(seed: int) -> dict[str, Callable[[Capacities, float], "Simple | Queue"]]:
    """Return them by name; those that draw draw by the seed."""
    draw = random.Random(seed)  # noqa: S311 - to be drawn again from its seed
    return {
        "random": lambda capacities, _: Simple(
            capacities, lambda found, _n: draw.choice(found), draw=draw, strict=False
        ),
        "round_robin": lambda capacities, _: Simple(
            capacities, lambda found, number: found[number % len(found)], strict=False
        ),
        "first_fit": lambda capacities, _: Simple(capacities, lambda found, _n: found[0], strict=False),
        "fifo": lambda capacities, _: Simple(capacities, lambda found, _n: found[0], strict=True),
        "no_reservation": lambda capacities, now: Queue(capacities, {}, (), now, reservation_after_s=float("inf")),
    }
