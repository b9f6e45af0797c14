"""All that waits, and who of it gets what now.

Demands are looked at in the order of their rank. A lower one may pass one that cannot start yet; one that was passed
for ten minutes gets a reservation: units of its set that come free are kept for it. Reservations are renewed every ten
seconds and share no resource.
"""

import heapq
from collections.abc import Iterable, Iterator, Mapping

import msgspec

from vbrcore.balancer.demand import Choice, Demand, Grant, Pending, Wait
from vbrcore.balancer.group import Entry, Group
from vbrcore.balancer.rank import order_key, quarter
from vbrcore.balancer.room import Capacities, Closed, Room

RESERVATION_AFTER_S = 600.0
_REVIEW_EVERY_S = 10.0
_NEVER = float("-inf")
# Whoever waits for one of these could not use slots that are kept for it.
_NOT_RESERVABLE = frozenset({"chain", "machine"})
_Shape = tuple[object, ...]


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
            self.room.used[name] -= 1
            for group in self._users.get(name, {}).values():
                group.freed(name)
                self._awake[id(group)] = group

    def set_capacities(self, capacities: Capacities, now: float) -> None:
        """Go on with other limits, or with other things closed."""
        self.room = Room(capacities, self.room.used)
        self._reviewed = _NEVER
        self._begin([Pending(entry.demand, entry.passed_since) for _, entry in self._waiting.values()], now)

    # --- decisions --------------------------------------------------------------------------------

    def grant(self, now: float) -> Granted:
        """Grant what fits, in order of rank. `now`: seconds since the epoch."""
        if quarter(now) != self._quarter:  # ranks change by quarters of an hour
            self._begin([Pending(entry.demand, entry.passed_since) for _, entry in self._waiting.values()], now)
        review = now - self._reviewed >= _REVIEW_EVERY_S
        if review:
            self._reviewed = now
            self.room.kept.clear()
        grants: list[Grant] = []
        last = None
        for group, entry, choice in self._look(now, review=review):
            grants.append(Grant(entry.demand.demand_id, choice.server, choice.mode))
            self._take(group, entry, choice)
            last = entry.key if last is None else max(last, entry.key)
        passed = (
            frozenset[str]()
            if last is None
            else frozenset(name for one in self._groups.values() for name in one.pass_before(last, now, self._waiting))
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
        groups = self._groups.values() if review else self._awake.values()
        heap = [(group.entries[0].key, 0, id(group), group) for group in groups if group.entries]
        self._awake.clear()
        heapq.heapify(heap)
        while heap:
            key, place, number, group = heapq.heappop(heap)
            entry = group.entries[place]
            if self.room.first_full(entry.machines):
                place += 1
            elif (option := group.choose(self.room, key)) is not None:
                yield group, entry, option.choice
            else:
                self._leave(group, entry, now, review=review)
                continue
            if place < len(group.entries):
                heapq.heappush(heap, (group.entries[place].key, place, number, group))

    def _leave(self, group: Group, entry: Entry, now: float, *, review: bool) -> None:
        """Let a group wait until something comes back; one that has open choices is kept from them, and looks again."""
        if group.open and not group.is_shut and self.room.kept and not self.room.first_full(group.shared):
            self._awake[id(group)] = group
        if not review or entry.passed_since is None or now - entry.passed_since < self._reservation_after_s:
            return
        if self.room.first_full(group.shared).partition(":")[0] not in _NOT_RESERVABLE:
            group.keep(self.room, entry)

    def _take(self, group: Group, entry: Entry, choice: Choice) -> None:
        demand = entry.demand
        group.entries.remove(entry)
        del self._waiting[demand.demand_id]
        for unit in (*demand.machine_units, *demand.units, *choice.units):
            self.room.used[unit.resource] += 1
        if any(key == entry.key for key, _ in self.room.kept.values()):
            self.room.kept = {name: kept for name, kept in self.room.kept.items() if kept[0] != entry.key}
            self._awake.update((id(one), one) for one in self._groups.values())

    # --- groups -------------------------------------------------------------------------------------

    def _begin(self, pending: Iterable[Pending], now: float) -> None:
        """Order all that waits by the ranks of this quarter of an hour."""
        self._quarter = quarter(now)
        self._groups: dict[_Shape, Group] = {}
        self._awake: dict[int, Group] = {}
        self._users: dict[str, dict[int, Group]] = {}
        self._choices: dict[int, tuple[int, tuple[Choice, ...]]] = {}
        self._choices_equal: dict[tuple[Choice, ...], int] = {}
        self._waiting: dict[str, tuple[Group, Entry]] = {}
        for one in pending:
            self.add(one, now)
        self._reviewed = _NEVER

    def _group(self, demand: Demand) -> Group:
        stores = tuple(unit for unit in demand.machine_units if not unit.resource.startswith("machine:"))
        places = self._number(demand.choices)
        shape = (stores, demand.units, places, demand.writes, demand.gates, demand.wait_for_best)
        group = self._groups.get(shape)
        if group is None:
            group = self._groups[shape] = Group(demand, self.room)
            for name in group.names():
                self._users.setdefault(name, {})[id(group)] = group
        return group

    def _number(self, choices: tuple[Choice, ...]) -> int:
        """Return the same number for equal choices. Most are the very same object, so their values are hashed once."""
        known = self._choices.get(id(choices))
        if known is None:
            number = self._choices_equal.setdefault(choices, len(self._choices_equal))
            known = self._choices[id(choices)] = number, choices
        return known[0]
