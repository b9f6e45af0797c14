"""All that waits, and who of it gets what now.

Demands are looked at in the order of their rank. A lower one may pass one that cannot start yet; one that was passed
for ten minutes gets a reservation: units of its set that come free are kept for it. Reservations are renewed every ten
seconds and share no resource.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from vbrcore.balancer.demand import Choice, Demand, Grant, Pending, Wait
from vbrcore.balancer.group import Entry, Group, Options
from vbrcore.balancer.rank import Key, order_key, quarter
from vbrcore.balancer.room import Capacities, Closed, Room

RESERVATION_AFTER_S = 600.0
_REVIEW_EVERY_S = 10.0
_NEVER = float("-inf")
# Whoever waits for one of these could not use slots that are kept for it.
_NOT_RESERVABLE = frozenset({"chain", "machine", "datastore"})
_Shape = tuple[object, ...]
_Look = tuple[Key, int, int, Group, bool]  # place in the group; whether it looks whatever came back


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
        entry = Entry(pending, order_key(pending.demand, now))
        group = self._group(pending.demand)
        group.add(entry)
        self._waiting[pending.demand.demand_id] = group, entry
        self._awake[id(group)] = group
        for name, _ in entry.machines:
            self._users.setdefault(name, {})[id(group)] = group

    def withdraw(self, demand_id: str) -> None:
        """Forget a demand; one that does not wait is no error."""
        if (found := self._waiting.pop(demand_id, None)) is not None:
            found[0].entries.remove(found[1])
            self._reviewed = _NEVER

    def give_back(self, resources: Iterable[str]) -> None:
        """Free one unit of each resource."""
        for name in resources:
            # Who needs a unit of what was not used up is not waiting for it.
            was_short = self.room.is_full(name, self._largest.get(name, 1))
            self.room.used[name] -= 1
            if was_short:
                self._returned.add(name)
                for number, group in self._users.get(name, {}).items():
                    group.freed.add(name)
                    if not group.asleep_on or group.asleep_on == name:
                        self._awake[number] = group

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
            if not changed.isdisjoint(options.names):
                options.look(capacities)
        for group in self._groups.values():
            if group.heeds(changed):
                group.begin(group.options, self.room)
                self._awake[id(group)] = group

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
        passed = (
            frozenset[str]()
            if last is None
            else frozenset(
                name
                for one in self._groups.values()
                if one.unpassed and one.unpassed[0][0] < last
                for name in one.pass_before(last, now, self._waiting)
            )
        )
        return Granted(tuple(grants), passed)

    def waits(self) -> tuple[Wait, ...]:
        """Say of each demand that waits, in order, why it does."""
        common: dict[int, Closed] = {}
        found = []
        for place, (group, entry) in enumerate(sorted(self._waiting.values(), key=lambda pair: pair[1].key), 1):
            if self.room.first_full(entry.machines):
                why = group.why(self.room, entry)
            else:
                why = common.get(id(group)) or common.setdefault(id(group), group.why(self.room, entry))
            found.append(Wait(entry.demand.demand_id, why.reason, why.detail, place))
        return tuple(found)

    def waiting(self) -> list[tuple[Group, Entry]]:
        """Return all that waits, in order."""
        return sorted(self._waiting.values(), key=lambda pair: pair[1].key)

    def _look(self, now: float, *, review: bool) -> Iterator[tuple[Group, Entry, Choice]]:
        """Yield what fits, one after the other; what was yielded must be taken before the next is asked for."""
        free = self._free()
        heap: list[_Look] = [
            (group.entries[0].key, 0, number, group, group.must_look)
            for number, group in self._awake.items()
            if group.entries and (group.must_look or not group.freed.isdisjoint(free))
        ]
        if review:
            heap += [
                (group.entries[0].key, 0, id(group), group, True)
                for group in self._groups.values()
                if group.entries and id(group) not in self._awake and self._waits_long(group.entries[0], now)
            ]
        heapq.heapify(heap)
        while heap:
            key, place, number, group, _ = heapq.heappop(heap)
            entry = group.entries[place]
            if self.room.first_full(entry.machines):
                place += 1
            elif number in self._awake and (option := group.choose(self.room, key)) is not None:
                yield group, entry, option.choice
                if self._free() != free:
                    # Whoever was woken by what is used up again need not look.
                    free = self._free()
                    heap = [one for one in heap if one[4] or not one[3].freed.isdisjoint(free)]
                    heapq.heapify(heap)
            else:
                self._leave(group, entry, now, review=review)
                continue
            if place < len(group.entries):
                heapq.heappush(heap, (group.entries[place].key, place, number, group, True))
            else:
                self._awake.pop(number, None)
        self._returned.clear()

    def _free(self) -> list[str]:
        return [name for name in self._returned if not self.room.is_full(name)]

    def _leave(self, group: Group, entry: Entry, now: float, *, review: bool) -> None:
        """Let a group wait until something comes back that it lacks."""
        self._awake.pop(id(group), None)
        if not review or not self._waits_long(entry, now):
            return
        if self.room.first_full(group.shared).partition(":")[0] not in _NOT_RESERVABLE:
            group.keep(self.room, entry)

    def _wake_kept_back(self) -> None:
        """Look again at those from whom free units were kept."""
        for group in self._groups.values():
            if group.is_kept_back:
                group.must_look = True
                self._awake[id(group)] = group

    def _waits_long(self, entry: Entry, now: float) -> bool:
        return entry.passed_since is not None and now - entry.passed_since >= self._reservation_after_s

    def _take(self, group: Group, entry: Entry, choice: Choice) -> None:
        demand = entry.demand
        group.entries.remove(entry)
        del self._waiting[demand.demand_id]
        for unit in (*demand.machine_units, *demand.units, *choice.units):
            self.room.used[unit.resource] += 1
        if any(key == entry.key for key, _ in self.room.kept.values()):
            self.room.kept = {name: kept for name, kept in self.room.kept.items() if kept[0] != entry.key}
            self._wake_kept_back()

    # --- groups -------------------------------------------------------------------------------------

    def _begin(self, pending: Iterable[Pending], now: float) -> None:
        self._quarter = quarter(now)
        self._reviewed = _NEVER
        self._groups: dict[_Shape, Group] = {}
        self._awake: dict[int, Group] = {}
        self._returned: set[str] = set()
        self._users: dict[str, dict[int, Group]] = {}
        self._largest: dict[str, int] = {}
        self._options: dict[object, Options] = {}
        self._choices: dict[int, tuple[int, tuple[Choice, ...]]] = {}
        self._choices_equal: dict[tuple[Choice, ...], int] = {}
        self._waiting: dict[str, tuple[Group, Entry]] = {}
        for one in pending:
            self.add(one, now)

    def _reorder(self, now: float) -> None:
        """Follow the ranks, which change by quarters of an hour; forget groups of which nothing waits."""
        self._quarter = quarter(now)
        self._reviewed = _NEVER
        for shape, group in list(self._groups.items()):
            if group.entries:
                group.reorder(now)
            else:
                del self._groups[shape]
                self._awake.pop(id(group), None)
        alive = {id(group) for group in self._groups.values()}
        for name, users in list(self._users.items()):
            self._users[name] = {number: group for number, group in users.items() if number in alive}
            if not self._users[name]:
                del self._users[name]

    def _group(self, demand: Demand) -> Group:
        stores = tuple(unit for unit in demand.machine_units if not unit.resource.startswith("machine:"))
        same_choices = (
            demand.units,
            self._number(demand.choices),
            demand.writes,
            demand.only_read,
            demand.wait_for_best,
        )
        shape = (stores, demand.gates, same_choices)
        group = self._groups.get(shape)
        if group is None:
            group = self._groups[shape] = Group(demand, self._options_of(same_choices, demand), self.room)
            self._register(group)
        return group

    def _options_of(self, same_choices: object, demand: Demand) -> Options:
        options = self._options.get(same_choices)
        if options is None:
            options = self._options[same_choices] = Options(demand, self.room)
        return options

    def _register(self, group: Group) -> None:
        """Have it told what comes back, and know of what it needs more than one unit."""
        for name in group.names():
            self._users.setdefault(name, {})[id(group)] = group
        for name, count in group.counts():
            if count > self._largest.get(name, 1):
                self._largest[name] = count

    def _number(self, choices: tuple[Choice, ...]) -> int:
        """Return the same number for equal choices. Most are the very same object, so their values are hashed once."""
        known = self._choices.get(id(choices))
        if known is None:
            number = self._choices_equal.setdefault(choices, len(self._choices_equal))
            known = self._choices[id(choices)] = number, choices
        return known[0]
