"""All that waits, and who of it gets what now.

Demands are looked at in the order of their rank. A lower one may pass one that cannot start yet; one that was passed
for ten minutes gets a reservation: units of its set that come free are kept for it. Reservations are renewed every ten
seconds and share no resource.
"""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from vbrcore.balancer.demand import Choice, Demand, Grant, Pending, Wait
from vbrcore.balancer.group import Entry, Group
from vbrcore.balancer.options import Options
from vbrcore.balancer.rank import Key, order_key, quarter, rank
from vbrcore.balancer.room import Capacities, Closed, Room, kind_of

RESERVATION_AFTER_S = 600.0
_REVIEW_EVERY_S = 10.0
_NEVER = float("-inf")
# Whoever waits for one of these could not use slots that are kept for it.
_NOT_RESERVABLE = frozenset({"chain", "machine", "datastore"})
_Shape = tuple[object, ...]
_START, _KEEP = 0, 1  # what a look is for: to start, or, later, to have units kept
_Look = tuple[Key, int, int, Group, bool]  # its number, for equals; whether it looks whatever came back


class Granted(msgspec.Struct, frozen=True):
    """`passed`: the demands that were passed by a lower one now for the first time."""

    grants: tuple[Grant, ...]
    passed: frozenset[str]


class Queue:
    """It lives for one decision, or goes on: with what is added, withdrawn and given back between decisions."""

    def __init__(
        self,
        capacities: Capacities,
        held: Mapping[str, int],
        pending: Iterable[Pending],
        now: float,
        *,
        reservation_after_s: float = RESERVATION_AFTER_S,
    ) -> None:
        self.room = Room(capacities, held)
        self._reservation_after_s = reservation_after_s
        self._begin(pending, now)

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, demand_id: str) -> bool:
        return demand_id in self._waiting

    # --- what happens between decisions -----------------------------------------------------------

    def add(self, pending: Pending, now: float) -> None:
        """Let a demand wait from now on."""
        group, entry = self._admit(pending, now)
        if entry.passed_since is None:
            heapq.heappush(self._unpassed, entry.key)
        self._enter(group, entry)

    def withdraw(self, demand_id: str) -> None:
        """Forget a demand; one that does not wait is no error."""
        if (found := self._waiting.pop(demand_id, None)) is not None:
            group, entry = found
            if entry in group.entries:
                group.entries.remove(entry)
            self._wake(group)
            self._reviewed = _NEVER

    def give_back(self, resources: Iterable[str]) -> None:
        """Free one unit of each resource."""
        for name in resources:
            # Who needs a unit of what was not used up is not waiting for it.
            was_short = self.room.is_full(name, self._largest.get(name, 1))
            self.room.give_back(name)
            if was_short:
                self._came_back(name)

    def set_capacities(self, capacities: Capacities, now: float) -> None:
        """Go on with other limits, or with other things closed."""
        before = self.room.capacities
        self.room = Room(capacities, self.room.used)
        self._reviewed = _NEVER
        if capacities.limits != before.limits:
            self._begin([Pending(entry.demand, entry.passed_since) for _, entry in self._waiting.values()], now)
            return
        names = before.closed.keys() | capacities.closed.keys()
        changed = {name for name in names if before.closed.get(name) != capacities.closed.get(name)}
        for options in self._options.values():
            if not options.names.isdisjoint(changed):
                options.look(self.room)
                self._awake[id(options)] = options
        for group in self._groups.values():
            if group.heeds(changed):
                group.begin(self.room)
                self._wake(group)

    # --- decisions --------------------------------------------------------------------------------

    def grant(self, now: float) -> Granted:
        """Grant what fits, in order of rank. `now`: seconds since the epoch."""
        if quarter(now) != self._quarter:
            self._reorder(now)
        review = now - self._reviewed >= _REVIEW_EVERY_S
        if review:
            self._reviewed = now
            self.room.kept.clear()
            self._wake_kept_back()
        grants: list[Grant] = []
        last = None
        for group, entry, choice in self._look(now, review=review):
            grants.append(Grant(entry.demand.demand_id, choice.server, choice.mode))
            self._take(group, entry, choice)
            last = entry.key if last is None else max(last, entry.key)
        return Granted(tuple(grants), frozenset() if last is None else frozenset(self._passed_before(last, now)))

    def waits(self) -> tuple[Wait, ...]:
        """Say of each demand that waits, in order, why it does."""
        kept_for = sorted({key for key, _ in self.room.kept.values()})
        common: dict[tuple[int, int], Closed] = {}

        def why(group: Group, entry: Entry) -> Closed:
            # Who has the same kept units before it lacks the same at the same choices.
            alike = id(group.options), bisect_left(kept_for, entry.key)
            if alike not in common:
                common[alike] = group.options.why(self.room, entry.demand, entry.key)
            return common[alike]

        found = []
        for place, (group, entry) in enumerate(self.waiting(), 1):
            lack = group.own_lack(self.room, entry) or why(group, entry)
            found.append(Wait(entry.demand.demand_id, lack.reason, lack.detail, place))
        return tuple(found)

    def waiting(self) -> list[tuple[Group, Entry]]:
        """Return all that waits, in order."""
        return sorted(self._waiting.values(), key=lambda pair: pair[1].key)

    def _look(self, now: float, *, review: bool) -> Iterator[tuple[Group, Entry, Choice]]:
        """Yield what fits, one after the other; what was yielded must be taken before the next is asked for."""
        free = self._free()
        heap = self._looks(free, now, review=review)
        while heap:
            key, step, number, group, _ = heapq.heappop(heap)
            if not group.entries or group.entries[0].key != key:
                continue
            entry, options = group.entries[0], group.options
            if name := self.room.first_full(entry.machines):
                self._set_aside(name, group, entry)
            elif step == _KEEP:
                self._keep(group, entry)
                continue
            elif group.has_room(self.room, key):
                if (option := options.choose(self.room, key)) is None:
                    self._awake.pop(number, None)
                    continue
                yield group, entry, option.choice
                if self._free() != free:
                    # Whoever was woken by what is used up again need not look.
                    free = self._free()
                    heap = [one for one in heap if one[4] or not one[3].options.freed.isdisjoint(free)]
                    heapq.heapify(heap)
            if review and self._waits_long(group, now):
                heapq.heappush(heap, (group.entries[0].key, _KEEP, id(group), group, True))
            if step == _START:
                self._go_on(options, heap)
        self._returned.clear()

    def _looks(self, free: set[str], now: float, *, review: bool) -> list[_Look]:
        """Return what there is to look at, as a heap."""
        heap: list[_Look] = [
            (head[0], _START, number, head[2], options.must_look)
            for number, options in self._awake.items()
            if (options.must_look or not options.freed.isdisjoint(free)) and (head := options.first())
        ]
        if review:
            heap += [
                (group.entries[0].key, _KEEP, id(group), group, True)
                for group in self._groups.values()
                if not group.asleep_on and self._waits_long(group, now)
            ]
        heapq.heapify(heap)
        return heap

    def _free(self) -> set[str]:
        return self._returned - self.room.full

    def _go_on(self, options: Options, heap: list[_Look]) -> None:
        """Look at the next of those that may choose alike, when its turn comes."""
        if (head := options.first()) is not None:
            heapq.heappush(heap, (head[0], _START, id(options), head[2], True))
        else:
            self._awake.pop(id(options), None)

    def _set_aside(self, machine: str, group: Group, entry: Entry) -> None:
        """Let a demand wait outside its group until its machine comes back, so that others of the group can start."""
        group.entries.remove(entry)
        self._aside.setdefault(machine, []).append((group, entry))
        group.options.put(group)

    def _keep(self, group: Group, entry: Entry) -> None:
        if kind_of(self.room.first_full(group.shared)) not in _NOT_RESERVABLE:
            group.keep(self.room, entry)

    def _wake_kept_back(self) -> None:
        """Look again at those from whom free units were kept."""
        for options in self._options.values():
            if options.is_kept_back:
                options.must_look = True
                self._awake[id(options)] = options
        for group in self._groups.values():
            if group.is_kept_back:
                group.is_kept_back = False
                self._wake(group)

    def _waits_long(self, group: Group, now: float) -> bool:
        """Return whether the first of a group was passed long ago."""
        since = group.entries[0].passed_since if group.entries else None
        return since is not None and now - since >= self._reservation_after_s

    def _take(self, group: Group, entry: Entry, choice: Choice) -> None:
        demand = entry.demand
        group.entries.remove(entry)
        group.options.put(group)
        del self._waiting[demand.demand_id]
        for unit in (*demand.machine_units, *demand.units, *choice.units):
            self.room.take(unit.resource)
        if any(key == entry.key for key, _ in self.room.kept.values()):
            self.room.kept = {name: kept for name, kept in self.room.kept.items() if kept[0] != entry.key}
            self._wake_kept_back()

    def _passed_before(self, last: Key, now: float) -> Iterator[str]:
        """Note that one with this key started: yield the ids of those that were passed for the first time."""
        while self._unpassed and self._unpassed[0] < last:
            key = heapq.heappop(self._unpassed)
            _, entry = self._waiting.get(key[-1], (None, None))
            if entry is not None and entry.key == key and entry.passed_since is None:
                entry.passed_since = now
                yield key[-1]

    # --- what waits ---------------------------------------------------------------------------------

    def _begin(self, pending: Iterable[Pending], now: float) -> None:
        self._quarter = quarter(now)
        self._reviewed = _NEVER
        self._groups: dict[_Shape, Group] = {}
        self._options: dict[_Shape, Options] = {}
        self._awake: dict[int, Options] = {}
        self._returned: set[str] = set()
        self._users: dict[str, list[Options]] = {}
        self._stores: dict[str, list[Group]] = {}
        self._aside: dict[str, list[tuple[Group, Entry]]] = {}
        self._largest: dict[str, int] = {}
        self._choices: dict[int, tuple[int, tuple[Choice, ...]]] = {}
        self._choices_equal: dict[tuple[Choice, ...], int] = {}
        self._waiting: dict[str, tuple[Group, Entry]] = {}
        for one in pending:
            group, entry = self._admit(one, now)
            group.entries.append(entry)
        self._sort()

    def _reorder(self, now: float) -> None:
        """Follow the ranks, which change by quarters of an hour: the rest of a key stays, and many have the same rank.

        Forget groups of which nothing waits.
        """
        self._quarter = quarter(now)
        self._reviewed = _NEVER
        ranks: dict[tuple[int, bool, float, float], int] = {}
        for _, entry in self._waiting.values():
            demand = entry.demand
            alike = demand.class_rank, demand.manual, demand.created, demand.ages_from
            if (found := ranks.get(alike)) is None:
                found = ranks[alike] = -rank(demand, now)
            if found != entry.key[0]:
                entry.key = (found, *entry.key[1:])
        waited_for = {id(group) for group, _ in self._waiting.values()}
        self._groups = {shape: group for shape, group in self._groups.items() if id(group) in waited_for}
        self._stores.clear()
        for group in self._groups.values():
            self._register(group)
        for options in self._options.values():
            options.heads.clear()
        self._sort()

    def _sort(self) -> None:
        """Put all in order, and look at all again."""
        self._unpassed = [entry.key for _, entry in self._waiting.values() if entry.passed_since is None]
        heapq.heapify(self._unpassed)
        for group in self._groups.values():
            group.entries.sort(key=lambda one: one.key)
            self._wake(group)

    def _admit(self, pending: Pending, now: float) -> tuple[Group, Entry]:
        found = self._group(pending.demand), Entry(pending, order_key(pending.demand, now))
        self._waiting[pending.demand.demand_id] = found
        return found

    def _enter(self, group: Group, entry: Entry) -> None:
        """Let a demand be looked at: where it is not the first of its group, the first one is."""
        group.add(entry)
        if group.entries[0] is entry:
            self._wake(group)

    def _wake(self, group: Group) -> None:
        group.options.put(group)
        group.options.must_look = True
        self._awake[id(group.options)] = group.options

    def _came_back(self, name: str) -> None:
        """Have those look again who waited for it."""
        self._returned.add(name)
        for options in self._users.get(name, ()):
            options.freed.add(name)
            if not options.asleep_on or options.asleep_on == name:
                self._awake[id(options)] = options
        for group in self._stores.get(name, ()):
            if group.asleep_on == name:
                group.asleep_on = ""
                self._wake(group)
        for group, entry in self._aside.pop(name, ()):
            if self._waiting.get(entry.demand.demand_id) == (group, entry):
                self._enter(group, entry)

    # --- groups -------------------------------------------------------------------------------------

    def _group(self, demand: Demand) -> Group:
        stores = tuple(unit for unit in demand.machine_units if not unit.resource.startswith("machine:"))
        options = self._options_of(demand)
        shape = (stores, demand.gates, id(options))
        group = self._groups.get(shape)
        if group is None:
            group = self._groups[shape] = Group(demand, options, self.room)
            self._register(group)
        return group

    def _register(self, group: Group) -> None:
        for name, count in group.stores:
            self._stores.setdefault(name, []).append(group)
            self._largest[name] = max(count, self._largest.get(name, 1))

    def _options_of(self, demand: Demand) -> Options:
        shape = (demand.units, self._number(demand.choices), demand.writes, demand.only_read, demand.wait_for_best)
        options = self._options.get(shape)
        if options is None:
            options = self._options[shape] = Options(demand, self.room)
            for name in options.names:
                self._users.setdefault(name, []).append(options)
            for name, count in options.several().items():
                self._largest[name] = max(count, self._largest.get(name, 1))
        return options

    def _number(self, choices: tuple[Choice, ...]) -> int:
        """Return the same number for equal choices. Most are the very same object, so their values are hashed once."""
        known = self._choices.get(id(choices))
        if known is None:
            number = self._choices_equal.setdefault(choices, len(self._choices_equal))
            known = self._choices[id(choices)] = number, choices
        return known[0]
