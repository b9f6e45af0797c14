"""Why a demand is where it is, and why it is not elsewhere: as values that can be printed."""

from collections.abc import Container, Mapping, Sequence

import msgspec

from vbrcore.balancer import words
from vbrcore.balancer.demand import Choice, Excluded, Pending
from vbrcore.balancer.group import Entry, Group
from vbrcore.balancer.queue import Queue
from vbrcore.balancer.rank import RankParts, rank_parts
from vbrcore.balancer.room import Capacities, Closed, Room

STARTS_NOW = "starts_now"
NOT_BEST_MODE = "waits_for_best_mode"
_AHEAD_MAX = 20


class ResourceUse(msgspec.Struct, frozen=True):
    """A resource that a demand needs `needs` units of. `kept`: free ones that are kept for who was passed too long.

    `closed`: why it takes nothing new ("": it does); `lacks`: this is one of the things that stand in the way.
    """

    resource: str
    label: str
    needs: int
    limit: int
    used: int
    kept: int
    closed: str
    lacks: bool


class Candidate(msgspec.Struct, frozen=True):
    """A server and mode in the order in which they are looked at; `reason` "": it could start there now.

    `merits`: what it is preferred for, in words.
    """

    server: str
    mode: str
    reason: str
    detail: str
    resources: tuple[ResourceUse, ...]
    merits: tuple[str, ...] = ()


class Explanation(msgspec.Struct, frozen=True):
    """`place` of `of` in the queue. `ahead`: those before it that need something it lacks, 20 at most.

    `kept`: resources of which units are kept for it. `reason` `starts_now`: nothing stands in the way any more.
    """

    demand_id: str
    reason: str
    detail: str
    place: int
    of: int
    rank: RankParts
    passed_since: float | None
    kept: tuple[str, ...]
    resources: tuple[ResourceUse, ...]
    candidates: tuple[Candidate, ...]
    ahead: tuple[str, ...]
    excluded: tuple[Excluded, ...] = ()


def explain(
    capacities: Capacities, held: Mapping[str, int], pending: Sequence[Pending], demand_ids: Container[str], now: float
) -> tuple[Explanation, ...]:
    """Explain some of the pending demands, in their order; the others tell what is kept and who comes first."""
    queue = Queue(capacities, held, pending, now)
    queue.grant(now)
    waiting = queue.waiting()
    found = [
        _starting(one, len(waiting), now)
        for one in pending
        if one.demand.demand_id in demand_ids and one.demand.demand_id not in queue
    ]
    found += [
        _waiting(queue.room, waiting, place, now)
        for place, (_, entry) in enumerate(waiting, 1)
        if entry.demand.demand_id in demand_ids
    ]
    return tuple(found)


def _starting(one: Pending, of: int, now: float) -> Explanation:
    text = "everything it needs is free"
    parts = rank_parts(one.demand, now)
    return Explanation(one.demand.demand_id, STARTS_NOW, text, 0, of, parts, one.passed_since, (), (), (), ())


def _waiting(room: Room, waiting: Sequence[tuple[Group, Entry]], place: int, now: float) -> Explanation:
    group, entry = waiting[place - 1]
    why = group.why(room, entry)
    own = _uses(room, entry, dict((*entry.machines, *group.shared)))
    offered = _candidates(room, group, entry)
    lacking = {use.resource for use in own if use.lacks} or {
        use.resource for candidate in offered for use in candidate.resources if use.lacks
    }
    return Explanation(
        demand_id=entry.demand.demand_id,
        reason=why.reason,
        detail=why.detail,
        place=place,
        of=len(waiting),
        rank=rank_parts(entry.demand, now),
        passed_since=entry.passed_since,
        kept=tuple(name for name, (key, _) in room.kept.items() if key == entry.key),
        resources=own,
        candidates=offered,
        ahead=_ahead(waiting[: place - 1], lacking),
        excluded=entry.demand.excluded,
    )


def _candidates(room: Room, group: Group, entry: Entry) -> tuple[Candidate, ...]:
    """Say of each choice of the demand what stands in the way there, besides what the demand needs anywhere."""
    found = []
    looked_at = {(option.choice.server, option.choice.mode) for option in group.options.eligible}
    for option in group.options.eligible:
        if option.choice.server:
            lack = room.lack(entry.demand, dict(option.needs), entry.key) or Closed("", "")
            uses = _uses(room, entry, dict(option.needs))
            choice = option.choice
            found.append(Candidate(choice.server, choice.mode, lack.reason, lack.detail, uses, _merits(entry, choice)))
    found.extend(
        Candidate(choice.server, choice.mode, NOT_BEST_MODE, "the job waits for the best mode", ())
        for choice in entry.demand.choices
        if (choice.server, choice.mode) not in looked_at
    )
    return tuple(found)


def _merits(entry: Entry, choice: Choice) -> tuple[str, ...]:
    best = ("best_mode",) if choice.mode == entry.demand.choices[0].mode else ()
    return tuple(map(words.placement_words, (*best, *choice.merits)))


def _uses(room: Room, entry: Entry, needs: Mapping[str, int]) -> tuple[ResourceUse, ...]:
    uses = []
    for name, count in needs.items():
        closed = room.capacities.closed.get(name)
        why = closed.reason if closed is not None and closed.to(entry.demand, name) else ""
        kept = room.kept_before(name, entry.key)
        uses.append(
            ResourceUse(
                resource=name,
                label=room.capacities.label(name),
                needs=count,
                limit=room.limit(name),
                used=room.used[name],
                kept=kept,
                closed=why,
                lacks=bool(why) or count > room.limit(name) - room.used[name] - kept,
            )
        )
    return tuple(uses)


def _ahead(before: Sequence[tuple[Group, Entry]], lacking: set[str]) -> tuple[str, ...]:
    ahead = []
    for group, entry in before:
        if not lacking.isdisjoint(group.names().union(name for name, _ in entry.machines)):
            ahead.append(entry.demand.demand_id)
            if len(ahead) == _AHEAD_MAX:
                break
    return tuple(ahead)
