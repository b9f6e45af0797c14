"""Demands that need the same but for the machine itself: where one finds no room, no later one of them does.

What was found full is not looked at again before some of it comes back; so a decision costs what has changed since the
last one, and not what waits.
"""

import heapq
from bisect import insort
from collections import Counter
from collections.abc import Iterator

from vbrcore.balancer.demand import Choice, Demand, Pending
from vbrcore.balancer.rank import Key, rank
from vbrcore.balancer.room import Capacities, Closed, Room, kind_of, nearest

_NO_CHOICE = Choice("", "", ())


class Entry:
    """A demand that waits, with its place in the order."""

    __slots__ = ("demand", "key", "machines", "passed_since")

    def __init__(self, pending: Pending, key: Key) -> None:
        self.demand = pending.demand
        self.passed_since = pending.passed_since
        self.key = key
        self.machines = tuple((name, 1) for name in machine_names(pending.demand))


class Option:
    """A choice and how many units of each of its resources it needs together with the demand's own.

    `rest`: those of its needs that not all choices have.
    """

    __slots__ = ("choice", "needs", "rest", "tier")

    def __init__(self, choice: Choice, tier: tuple[int, int], shared: Counter[str]) -> None:
        self.choice = choice
        self.tier = tier
        counts = Counter(unit.resource for unit in choice.units)
        self.needs = self.rest = tuple((name, count + shared[name]) for name, count in counts.items())


class Options:
    """The choices of demands with the same units: made once, for all groups that differ in datastores only.

    `every`: all choices in their order; `names`: all that decides about them; `common`: what each of them needs;
    `many`: of what any needs several units; `by_resource`: the places of the choices that use a resource. What is
    closed decides about the rest: `eligible`, and `usable`, the places of those that could run if all else was gone.
    """

    def __init__(self, demand: Demand, room: Room) -> None:
        self._demand = demand
        self._counts = Counter(unit.resource for unit in demand.units)
        self.names = frozenset(unit.resource for choice in demand.choices for unit in choice.units)
        self.every = tuple(Option(choice, tier, self._counts) for choice, tier in _in_order(demand))
        in_all = set[tuple[str, int]].intersection(*(set(one.needs) for one in self.every))
        self.common = tuple(need for need in self.every[0].needs if need in in_all)
        self.many = tuple(need for option in self.every for need in option.needs if need[1] > 1)
        self._possible: set[int] = set()
        self._places: dict[str, list[int]] = {}
        self.by_resource: dict[str, list[int]] = {}
        for place, option in enumerate(self.every):
            option.rest = tuple(need for need in option.needs if need not in in_all)
            if all(count <= room.limit(name) for name, count in option.needs):
                self._possible.add(place)
            for name, _ in option.needs:
                self._places.setdefault(name, []).append(place)
            for name, _ in option.rest:
                self.by_resource.setdefault(name, []).append(place)
        self.look(room.capacities)

    def look(self, capacities: Capacities) -> None:
        """See what is closed now, with the same limits."""
        self.eligible = self.every
        usable = set(self._possible)
        if self._demand.wait_for_best:
            chosen = {id(choice) for choice, _ in eligible(self._demand, self._counts, capacities)}
            self.eligible = tuple(option for option in self.every if id(option.choice) in chosen)
            usable = {place for place in usable if id(self.every[place].choice) in chosen}
        for name, why in capacities.closed.items():
            if name in self._places and why.to(self._demand, name):
                usable.difference_update(self._places[name])
        self.usable = frozenset(usable)
        self.ordered = tuple(self.every[place] for place in sorted(usable))


class Group:
    """`entries` in their order; `open`: the places of choices that were not found full since they last were free.

    `freed`: what came back since it was last looked at; `asleep_on`: the first of its own resources that was full then.
    `must_look`: a demand came since it was looked at. `is_kept_back`: some of what is free is kept for others.
    `is_shut`: no entry can start, whatever comes back.
    """

    def __init__(self, demand: Demand, options: Options, room: Room) -> None:
        self.entries: list[Entry] = []
        self.unpassed: list[tuple[Key, Entry]] = []
        self.gates = demand.gates
        self.shared = tuple(Counter(_shared_names(demand)).items())
        self.demand = demand
        self.begin(options, room)

    def begin(self, options: Options, room: Room) -> None:
        """Look at the choices as if for the first time: what is closed has changed."""
        closed = room.capacities.closed
        names = (*self.gates, *(name for name, _ in self.shared))
        self.is_shut = any(name in closed and closed[name].to(self.demand, name) for name in names) or any(
            count > room.limit(name) for name, count in self.shared
        )
        self.options = options
        self.open = set(options.usable)
        self.freed: set[str] = set()
        self.asleep_on = ""
        self.must_look = True
        self.is_kept_back = False

    def heeds(self, changed: set[str]) -> bool:
        """Return whether any of these resources and gates decides about its entries."""
        return not (
            changed.isdisjoint(self.options.names)
            and changed.isdisjoint(self.gates)
            and changed.isdisjoint(name for name, _ in self.shared)
        )

    def add(self, entry: Entry) -> None:
        insort(self.entries, entry, key=lambda one: one.key)
        self.must_look = True
        if entry.passed_since is None:
            heapq.heappush(self.unpassed, (entry.key, entry))

    def reorder(self, now: float) -> None:
        """Follow the ranks of another quarter of an hour: the rest of a key stays, and many have the same rank."""
        ranks: dict[tuple[int, bool, float, float], int] = {}
        for entry in self.entries:
            demand = entry.demand
            alike = demand.class_rank, demand.manual, demand.created, demand.ages_from
            if (found := ranks.get(alike)) is None:
                found = ranks[alike] = -rank(demand, now)
            if found != entry.key[0]:
                entry.key = (found, *entry.key[1:])
        self.entries.sort(key=lambda one: one.key)
        self.unpassed = [(entry.key, entry) for entry in self.entries if entry.passed_since is None]

    def names(self) -> set[str]:
        """Name what it needs, with any choice."""
        return {name for name, _ in self.shared} | self.options.names

    def counts(self) -> Iterator[tuple[str, int]]:
        """Yield what it needs several units of."""
        yield from self.shared
        yield from self.options.many

    def choose(self, room: Room, key: Key) -> Option | None:
        """Return the best choice that fits now: the best mode and preference, then the least loaded server."""
        self.must_look = self.is_kept_back = False
        self.asleep_on = room.first_full(self.shared) or room.first_full(self.options.common)
        if self.is_shut or self.asleep_on:
            return None
        if room.first_kept(self.shared, key) or room.first_kept(self.options.common, key):
            self.is_kept_back = True
            return None
        for name in self.freed:
            self.open.update(self.options.usable.intersection(self.options.by_resource.get(name, ())))
        self.freed.clear()
        best: Option | None = None
        best_share = -1.0
        for place in sorted(self.open) if len(self.open) > 1 else tuple(self.open):
            option = self.options.every[place]
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

    def why(self, room: Room, entry: Entry) -> Closed:
        """Say what stands in the way of an entry for which nothing fits."""
        closed = room.capacities.closed
        for gate in self.gates:
            if gate in closed and closed[gate].to(entry.demand, gate):
                return closed[gate]
        own = Counter(unit.resource for unit in (*entry.demand.machine_units, *entry.demand.units))
        if (missing := room.lack(entry.demand, own, entry.key)) is not None:
            return missing
        lacks = (room.lack(entry.demand, dict(option.needs), entry.key) for option in self.options.eligible)
        return nearest(why for why in lacks if why is not None)

    def keep(self, room: Room, entry: Entry) -> bool:
        """Keep the units of an entry's whole set: at the server that is free or could be; return whether they are."""
        if self.is_shut or not self.options.ordered or room.keeps_any(self.shared) or room.keeps_any(entry.machines):
            return False
        option = self.options.ordered[0]
        if not room.first_full(self.options.common):
            option = next((one for one in self.options.ordered if not room.first_full(one.rest)), option)
        return room.keep(dict((*entry.machines, *self.shared, *option.needs)), entry.key)

    def pass_before(self, key: Key, now: float, waiting: "dict[str, tuple[Group, Entry]]") -> list[str]:
        """Note that one with this key started: return the ids of those that were passed for the first time."""
        passed = []
        while self.unpassed and self.unpassed[0][0] < key:
            _, entry = heapq.heappop(self.unpassed)
            found = waiting.get(entry.demand.demand_id)
            if found is not None and found[1] is entry:
                entry.passed_since = now
                passed.append(entry.demand.demand_id)
        return passed


def machine_names(demand: Demand) -> tuple[str, ...]:
    return tuple(unit.resource for unit in demand.machine_units if kind_of(unit.resource) == "machine")


def _shared_names(demand: Demand) -> list[str]:
    """Name what a demand needs besides the machine and a choice: the datastores first, because they are the rarest."""
    stores = (unit.resource for unit in demand.machine_units if kind_of(unit.resource) != "machine")
    return [*stores, *(unit.resource for unit in demand.units)]


def eligible(
    demand: Demand, counts: Counter[str], capacities: Capacities
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
        if there and all(count + counts[name] <= capacities.limit(name) for name, count in names.items()):
            return tuple(pair for pair in ordered if pair[1][0] == mode)
    return tuple(ordered)


def _in_order(demand: Demand) -> list[tuple[Choice, tuple[int, int]]]:
    modes = {mode: place for place, mode in enumerate(dict.fromkeys(one.mode for one in demand.choices))}
    tiers = ((choice, (modes.get(choice.mode, 0), choice.preference)) for choice in demand.choices or (_NO_CHOICE,))
    return sorted(tiers, key=lambda pair: pair[1])
