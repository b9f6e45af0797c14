"""Which points a policy keeps, which go, why and when. Pure: the same values give the same verdicts.

Points are ordered by sequence, never by clock. What their times are worth is found out first, machine by machine: a
time in the future is no time; two times that contradict the order of their points are both *out of order*. A point
without a time, or out of order, takes no place of a week, month or year from another one, so that a wrong clock keeps
too much for a while and never too little. A point out of order stays beside one that shows it: what goes must not make
a wrong time look right.
"""

from collections.abc import Collection, Sequence
from datetime import date, timedelta
from typing import Final, Literal
from zoneinfo import ZoneInfo

import msgspec

from vbrcore.chain.clock import contradicting, moments_of
from vbrcore.chain.periods import Period, day_of, first_day, following, name_of, start_of
from vbrcore.model.point import Point
from vbrcore.model.retention import KEPT_BY_HAND, MINIMUM_POINTS, Retention, check, zone_of

ReasonCode = Literal[
    "newest_points",
    "minimum",
    "days",
    "weekly",
    "monthly",
    "yearly",
    "kept_by_hand",
    "pinned",
    "out_of_order",
    "clock_not_trusted",
    "machine_absent",
    "expired",
    "machine_deleted",
]

_PeriodCode = Literal["weekly", "monthly", "yearly"]

_WAITING: Final = "the clock is not trusted: rules that look at it wait, and nothing goes meanwhile"
_TIMELESS: Final = "its time cannot be right"
_OUT_OF_ORDER: Final = "its time contradicts another point's"


class Reason(msgspec.Struct, frozen=True):
    """One reason for a verdict, as a code and for people.

    A point that stays goes when none of its reasons holds any more. One holds until `until` (seconds since the epoch)
    and until the machine has `after_points` more points; both are the earliest that can be told, and a reason with
    neither has no end that is known. `machine_absent` keeps nothing: it says when the point goes in spite of the rules.
    """

    code: ReasonCode
    text: str
    until: float | None = None
    after_points: int | None = None


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of one point. `created` is what the point says, right or wrong."""

    point_id: str
    machine_id: str
    machine: str
    created: float
    keep: bool
    reasons: tuple[Reason, ...]


def decide(
    points: Sequence[Point],
    policy: Retention,
    now: float,
    *,
    present_machines: frozenset[str] | None,
    pinned: frozenset[str],
    clock_trusted: bool,
) -> tuple[Verdict, ...]:
    """Return a verdict for each point of a chain, ordered by sequence. Raises `InvalidValue` for a bad policy.

    `present_machines`: ids of all machines that the hypervisor has now; None: not known, so no machine counts as
    deleted. `pinned`: ids of points that are being read. Without a trusted clock nothing goes if any rule looks at it.
    """
    check(policy)
    ordered = sorted(points, key=lambda point: point.sequence)
    machines: dict[tuple[str, str], list[Point]] = {}
    for point in ordered:
        machines.setdefault((point.plugin, point.machine_id), []).append(point)
    judge = _Judge(policy, now, zone_of(policy), pinned, clock_trusted)
    found: dict[str, Verdict] = {}
    for (_, machine_id), history in machines.items():
        absent = present_machines is not None and machine_id not in present_machines
        found.update((verdict.point_id, verdict) for verdict in judge.verdicts(history, absent=absent))
    return tuple(found[point.point_id] for point in ordered)


class _Judge:
    """The rules, for the points of one machine at a time (oldest first)."""

    def __init__(
        self, policy: Retention, now: float, zone: ZoneInfo, pinned: Collection[str], clock_trusted: bool
    ) -> None:
        self._policy = policy
        self._now = now
        self._zone = zone
        self._pinned = pinned
        self._waits = policy.by_clock and not clock_trusted

    def verdicts(self, history: Sequence[Point], *, absent: bool) -> list[Verdict]:
        reasons = [self._by_hand(point) for point in history]
        # What is kept by hand or being read outlives its machine.
        free = [found for found in reasons if not found]
        times = [point.created if 0 <= point.created <= self._now else None for point in history]
        moments = moments_of(times)
        goes_at = self._deleted_at(moments[-1]) if absent and not self._waits else None
        if goes_at is not None and goes_at <= self._now:
            age = _many(self._policy.deleted_after_days, "day")
            text = f"the machine is not in the inventory, and its newest point is older than {age}"
            return _verdicts(history, reasons, Reason("machine_deleted", text))
        self._by_count(reasons)
        if self._waits:
            return _verdicts(history, reasons, Reason("clock_not_trusted", _WAITING))
        self._by_days(moments, reasons)
        self._by_periods(times, reasons)
        if goes_at is not None:
            day = day_of(goes_at, self._zone)
            text = f"the machine is not in the inventory: all its points go from {day} on"
            for found in filter(None, free):
                found.append(Reason("machine_absent", text, until=goes_at))
        return _verdicts(history, reasons, Reason("expired", self._beyond()))

    def _by_hand(self, point: Point) -> list[Reason]:
        found = []
        if point.flags & KEPT_BY_HAND:
            found.append(Reason("kept_by_hand", "kept by hand"))
        if point.point_id in self._pinned:
            found.append(Reason("pinned", "being read"))
        return found

    def _by_count(self, reasons: Sequence[list[Reason]]) -> None:
        """The minimum is named where the policy keeps fewer by number."""
        wanted = self._policy.keep_points
        for newer, found in enumerate(reversed(reasons)):
            if newer < wanted:
                text = f"one of the newest {wanted} points" if wanted > 1 else "the newest point"
                found.append(_for_more_points("newest_points", text, wanted - newer))
            if wanted < MINIMUM_POINTS and newer < MINIMUM_POINTS:
                text = f"one of the newest {MINIMUM_POINTS} points, which always stay"
                found.append(_for_more_points("minimum", text, MINIMUM_POINTS - newer))

    def _by_days(self, moments: Sequence[float | None], reasons: Sequence[list[Reason]]) -> None:
        days = self._policy.keep_days
        if not days:
            return
        for moment, found in zip(moments, reasons, strict=True):
            if moment is None:
                found.append(Reason("days", f"{_TIMELESS}, so it may be of the last {_many(days, 'day')}"))
                continue
            until = self._days_after(moment, days)
            if self._now < until:
                text = f"of the last {_many(days, 'day')}; goes from {day_of(until, self._zone)} on"
                found.append(Reason("days", text, until=until))

    def _by_periods(self, times: Sequence[float | None], reasons: Sequence[list[Reason]]) -> None:
        if not self._policy.by_period:
            return
        against = contradicting(times)
        days = [None if time is None else day_of(time, self._zone) for time in times]
        for code, period, wanted in _periods(self._policy):
            rule = _PeriodRule(code, period, wanted, first_day(period, day_of(self._now, self._zone)), self._zone)
            rule.apply(days, [not others for others in against], reasons)
        kept = [index for index, found in enumerate(reasons) if found]
        evidence = {other for index in kept for other in against[index]}
        for index in evidence.difference(kept):
            reasons[index].append(Reason("out_of_order", f"{_OUT_OF_ORDER}, and goes when that one does"))

    def _deleted_at(self, newest: float | None) -> float | None:
        """Return from when on all points of a machine go that is not there any more (None: no rule, or no time)."""
        days = self._policy.deleted_after_days
        return self._days_after(newest, days + 1) if days and newest is not None else None

    def _days_after(self, moment: float, days: int) -> float:
        return start_of(day_of(moment, self._zone) + timedelta(days=days), self._zone)

    def _beyond(self) -> str:
        policy = self._policy
        rules = [f"the newest {max(policy.keep_points, MINIMUM_POINTS)} points"]
        if policy.keep_days:
            rules.append(f"the last {_many(policy.keep_days, 'day')}")
        rules += [f"the newest of {_many(wanted, period)}" for _, period, wanted in _periods(policy) if wanted]
        return f"beyond what is kept: {', '.join(rules)}"


class _PeriodRule(msgspec.Struct, frozen=True):
    """Keep the newest point of each of the last `wanted` periods that have one. `this` is the period of now."""

    code: _PeriodCode
    period: Period
    wanted: int
    this: date
    zone: ZoneInfo

    def apply(self, days: Sequence[date | None], in_order: Sequence[bool], reasons: Sequence[list[Reason]]) -> None:
        """Walk from the newest point to the oldest. Only a day that is there and in order takes a period's place."""
        firsts = [None if day is None else first_day(self.period, day) for day in days]
        counted = {first for first, good in zip(firsts, in_order, strict=True) if first is not None and good}
        newer: set[date] = set()
        for first, good, found in reversed(list(zip(firsts, in_order, reasons, strict=True))):
            if len(newer) >= self.wanted:
                return
            if first not in newer:
                found.append(self._reason(first, good, len(newer), this_has_one=self.this in counted))
            if first is not None and good:
                newer.add(first)

    def _reason(self, first: date | None, good: bool, newer: int, *, this_has_one: bool) -> Reason:
        period, left = self.period, self.wanted - newer
        if first is None:
            text = f"{_TIMELESS}, so it may be the newest of a {period}"
        elif not good:
            text = f"{_OUT_OF_ORDER}, so it may be the newest of a {period}"
        else:
            text = f"newest of {period} {name_of(period, first)}"
        text = f"{text} ({newer + 1} of {self.wanted})"
        if first == self.this:
            return Reason(self.code, f"{text}; goes when this {period} has a newer one", after_points=1)
        text = f"{text}; goes when {_many(left, f'more {period}')} {'has' if left == 1 else 'have'} a point"
        # The period of now is one of these as long as it has no point.
        ahead = left if this_has_one else left - 1
        if not ahead:
            return Reason(self.code, text, after_points=left)
        starts = following(period, self.this, ahead)
        return Reason(self.code, f"{text}, not before {starts}", start_of(starts, self.zone), left)


def _periods(policy: Retention) -> tuple[tuple[_PeriodCode, Period, int], ...]:
    return (
        ("weekly", "week", policy.keep_weekly),
        ("monthly", "month", policy.keep_monthly),
        ("yearly", "year", policy.keep_yearly),
    )


def _verdicts(history: Sequence[Point], reasons: Sequence[Sequence[Reason]], otherwise: Reason) -> list[Verdict]:
    """`otherwise` is the reason of points that have none to stay; if that is a clock in doubt, they stay as well."""
    stays = otherwise.code == "clock_not_trusted"
    return [
        Verdict(
            point.point_id,
            point.machine_id,
            point.machine,
            point.created,
            keep=bool(found) or stays,
            reasons=tuple(found) or (otherwise,),
        )
        for point, found in zip(history, reasons, strict=True)
    ]


def _for_more_points(code: Literal["newest_points", "minimum"], text: str, count: int) -> Reason:
    return Reason(code, f"{text}; goes after {count} more", after_points=count)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
