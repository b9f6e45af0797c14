"""What demands with the same units may choose from: looked at once for all of them, and only what has changed."""

import heapq
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from vbrcore.balancer.demand import Choice, Demand
from vbrcore.balancer.rank import Key
from vbrcore.balancer.room import Capacities, Closed, Room, nearest

if TYPE_CHECKING:
    from vbrcore.balancer.group import Group

_NO_CHOICE = Choice("", "", ())
Head = tuple[Key, int, "Group"]  # the second is a number for each group


class Option:
    """A choice and how many units of each of its resources it needs together with the demand's own.

    `rest`: those of its needs that not all choices have.
    """

    __slots__ = ("choice", "needs", "rest", "tier")

    def __init__(self, choice: Choice, tier: tuple[int, int], shared: Counter[str]) -> None:
        self.choice = choice
        self.tier = tier
        names = [unit.resource for unit in choice.units]
        self.needs = self.rest = tuple((name, names.count(name) + shared[name]) for name in dict.fromkeys(names))


class Options:
    """The choices of demands with the same units, whatever datastores and windows they need besides.

    `own`: how much of their units; `every`: all choices in their order; `names`: all that decides about them;
    `common`: what each choice needs. What is closed decides about the rest: `is_shut` (nobody can start, whatever comes
    back), `eligible`, and `ordered`, those that could run if all else was gone.

    `open`: the places of choices that were not found full since they last were free. `freed`: what came back since;
    `asleep_on`: what all choices need and was full then. `must_look`: a demand came, or can be looked at again.
    `is_kept_back`: some of what is free is kept for others. `heads`: the first demand of each group that can start
    where a choice fits; what is not true any more is left there until it comes first.
    """

    def __init__(self, demand: Demand, room: Room) -> None:
        self._demand = demand
        counts = Counter(unit.resource for unit in demand.units)
        self.own = tuple(counts.items())
        self.every = tuple(Option(choice, tier, counts) for choice, tier in _in_order(demand))
        in_all = set[tuple[str, int]].intersection(*(set(one.needs) for one in self.every))
        self.common = tuple(need for need in self.every[0].needs if need in in_all)
        self.names = frozenset(counts).union(name for option in self.every for name, _ in option.needs)
        self._possible: set[int] = set()
        self._places: dict[str, list[int]] = {}
        for place, option in enumerate(self.every):
            option.rest = tuple(need for need in option.needs if need not in in_all)
            if all(count <= room.limit(name) for name, count in option.needs):
                self._possible.add(place)
            for name, _ in option.needs:
                self._places.setdefault(name, []).append(place)
        self.heads: list[Head] = []
        self.look(room)

    def look(self, room: Room) -> None:
        """See what is closed now, with the same limits, as if for the first time."""
        closed = room.capacities.closed
        self.is_shut = room.takes_nothing(self._demand, self.own)
        self.eligible = self.every
        usable = set(self._possible)
        if self._demand.wait_for_best:
            chosen = {id(choice) for choice, _ in eligible(self._demand, dict(self.own), room.capacities)}
            self.eligible = tuple(option for option in self.every if id(option.choice) in chosen)
            usable = {place for place in usable if id(self.every[place].choice) in chosen}
        for name, why in closed.items():
            if name in self._places and why.to(self._demand, name):
                usable.difference_update(self._places[name])
        self.ordered = tuple(self.every[place] for place in sorted(usable))
        self._usable: dict[str, list[int]] = {}
        for place in usable:
            for name, _ in self.every[place].rest:
                self._usable.setdefault(name, []).append(place)
        self.open = usable
        self.freed: set[str] = set()
        self.asleep_on = ""
        self.must_look = True
        self.is_kept_back = False

    def several(self) -> dict[str, int]:
        """Return of what is needed more than one unit at once, and how many."""
        needs = (*self.own, *(need for option in self.every for need in option.needs))
        return {name: count for name, count in sorted(needs, key=lambda need: need[1]) if count > 1}

    def put(self, group: "Group") -> None:
        """Let the first demand of a group be looked at when its turn comes, if it has one that may be able to start."""
        group.head = group.entries[0].key if group.entries and group.is_ready else None
        if group.head is not None:
            heapq.heappush(self.heads, (group.head, id(group), group))

    def first(self) -> "Head | None":
        """Return the first of the demands that come first in their groups; None: none can start."""
        heads = self.heads
        while heads:
            if heads[0][2].head is heads[0][0]:
                return heads[0]
            heapq.heappop(heads)
        return None

    def choose(self, room: Room, key: Key) -> Option | None:
        """Return the best choice that fits now: the best mode and preference, then the least loaded server."""
        self.must_look = self.is_kept_back = False
        self.asleep_on = room.first_full(self.own) or room.first_full(self.common)
        if self.is_shut or self.asleep_on:
            return None
        if room.first_kept(self.own, key) or room.first_kept(self.common, key):
            self.is_kept_back = True
            return None
        best: Option | None = None
        best_share = -1.0
        for place in self._places_open(room):
            option = self.every[place]
            if best is not None and option.tier > best.tier:
                break
            if room.first_full(option.rest):
                self.open.discard(place)
            elif room.first_kept(option.rest, key):
                self.is_kept_back = True
            else:
                share = room.free_share(option.choice)
                if share > best_share:
                    best, best_share = option, share
        return best

    def first_open(self, room: Room) -> Option | None:
        """Return the best choice that is not full, if all else was free."""
        for place in self._places_open(room):
            if not room.first_full(self.every[place].rest):
                return self.every[place]
            self.open.discard(place)
        return None

    def why(self, room: Room, demand: Demand, key: Key) -> Closed:
        """Say what stands in the way at the choice that is nearest to taking a demand."""
        lacks = (room.lack(demand, dict(option.needs), key) for option in self.eligible)
        return nearest(why for why in lacks if why is not None)

    def _places_open(self, room: Room) -> list[int]:
        for name in self.freed - room.full:  # what is used up again comes back another time
            self.open.update(self._usable.get(name, ()))
        self.freed.clear()
        return sorted(self.open)


def eligible(
    demand: Demand, counts: Mapping[str, int], capacities: Capacities
) -> tuple[tuple[Choice, tuple[int, int]], ...]:
    """Return the choices in the order of mode and preference, each with its tier.

    A demand that waits for the best mode has only those of the best one that any server is there for.
    """
    ordered = _in_order(demand)
    if not demand.wait_for_best:
        return tuple(ordered)
    for choice, (mode, _) in ordered:
        names = Counter(unit.resource for unit in choice.units)
        there = all(name not in capacities.closed for name in names)
        if there and all(count + counts.get(name, 0) <= capacities.limit(name) for name, count in names.items()):
            return tuple(pair for pair in ordered if pair[1][0] == mode)
    return tuple(ordered)


def _in_order(demand: Demand) -> list[tuple[Choice, tuple[int, int]]]:
    modes = {mode: place for place, mode in enumerate(dict.fromkeys(one.mode for one in demand.choices))}
    tiers = ((choice, (modes.get(choice.mode, 0), choice.preference)) for choice in demand.choices or (_NO_CHOICE,))
    return sorted(tiers, key=lambda pair: pair[1])
