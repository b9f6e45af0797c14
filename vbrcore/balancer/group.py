"""Demands that need the same but for the machine itself: where one finds no room, no later one of them does.

What was found full is not looked at again before some of it comes back; so a decision costs what has changed since the
last one, and not what waits.
"""

from bisect import insort
from collections import Counter
from collections.abc import Collection

from vbrcore.balancer.demand import Demand, Pending
from vbrcore.balancer.options import Options
from vbrcore.balancer.rank import Key
from vbrcore.balancer.room import Closed, Room, kind_of


class Entry:
    """A demand that waits, with its place in the order."""

    __slots__ = ("demand", "key", "machines", "passed_since")

    def __init__(self, pending: Pending, key: Key) -> None:
        self.demand = pending.demand
        self.passed_since = pending.passed_since
        self.key = key
        self.machines = tuple((name, 1) for name in machine_names(pending.demand))


class Group:
    """`entries` in their order but those whose machine is in use. `head`: the key of the first; None: it cannot start.

    `shared`: what each needs besides machine and choice.
    `stores`: what of it only this group needs and not all with the same options: its datastores. `asleep_on`: the first
    of them that was full when it was last looked at. `is_kept_back`: what is free of them is kept for others.
    `is_shut`: no entry can start, whatever comes back.
    """

    def __init__(self, demand: Demand, options: Options, room: Room) -> None:
        self.entries: list[Entry] = []
        self.head: Key | None = None
        self.options = options
        self.gates = demand.gates
        self.shared = tuple(Counter(_shared_names(demand)).items())
        own = {unit.resource for unit in demand.machine_units}
        self.stores = tuple(need for need in self.shared if need[0] in own)
        self.demand = demand
        self.begin(room)

    @property
    def is_ready(self) -> bool:
        """Whether its first entry can start where a choice fits, as far as is known."""
        return not (self.is_shut or self.asleep_on or self.is_kept_back)

    def begin(self, room: Room) -> None:
        """Look at it as if for the first time: what is closed has changed."""
        closed = room.capacities.closed
        self.is_shut = room.takes_nothing(self.demand, self.stores) or any(
            gate in closed and closed[gate].to(self.demand, gate) for gate in self.gates
        )
        self.asleep_on = ""
        self.is_kept_back = False

    def heeds(self, changed: Collection[str]) -> bool:
        """Return whether any of these resources and gates decides about its entries, and not about its options."""
        return any(name in changed for name in self.gates) or any(name in changed for name, _ in self.stores)

    def add(self, entry: Entry) -> None:
        insort(self.entries, entry, key=lambda one: one.key)

    def names(self) -> set[str]:
        """Name what it needs, with any choice."""
        return {name for name, _ in self.shared} | self.options.names

    def has_room(self, room: Room, key: Key) -> bool:
        """Return whether its datastores have places for an entry; it is not ready any more where they have none."""
        self.asleep_on = room.first_full(self.stores)
        self.is_kept_back = not self.asleep_on and bool(room.first_kept(self.stores, key))
        if self.asleep_on or self.is_kept_back:
            self.head = None
        return self.head is not None

    def why(self, room: Room, entry: Entry) -> Closed:
        """Say what stands in the way of an entry for which nothing fits."""
        return self.own_lack(room, entry) or self.options.why(room, entry.demand, entry.key)

    def own_lack(self, room: Room, entry: Entry) -> Closed | None:
        """Say what stands in the way of an entry whatever it chooses; None: nothing does."""
        closed = room.capacities.closed
        for gate in self.gates:
            if gate in closed and closed[gate].to(entry.demand, gate):
                return closed[gate]
        own = Counter(unit.resource for unit in (*entry.demand.machine_units, *entry.demand.units))
        return room.lack(entry.demand, own, entry.key)

    def keep(self, room: Room, entry: Entry) -> bool:
        """Keep the units of an entry's whole set: at the server that is free or could be; return whether they are."""
        options = self.options
        if self.is_shut or options.is_shut or not options.ordered:
            return False
        own = dict((*entry.machines, *self.shared))
        if room.keeps_any(own):
            return False
        option = None if room.first_full(options.common) else options.first_open(room)
        return room.keep(own | dict((option or options.ordered[0]).needs), entry.key)


def machine_names(demand: Demand) -> tuple[str, ...]:
    return tuple(unit.resource for unit in demand.machine_units if kind_of(unit.resource) == "machine")


def _shared_names(demand: Demand) -> list[str]:
    """Name what a demand needs besides the machine and a choice: the datastores first, because they are the rarest."""
    stores = (unit.resource for unit in demand.machine_units if kind_of(unit.resource) != "machine")
    return [*stores, *(unit.resource for unit in demand.units)]
