"""What a policy keeps: each rule by example, and all of them against a model that knows no clock but a good one."""

import builtins
import time
from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vbrcore.chain.clock import ClockReading, clock_doubt
from vbrcore.chain.retention import Reason, Verdict, decide
from vbrcore.model.errors import InvalidValue
from vbrcore.model.point import Point
from vbrcore.model.retention import KEPT_BY_HAND, MINIMUM_POINTS, Retention, check

DAY = 86400.0
OFF = Retention(keep_points=0)
TIME_CODES = {"days", "weekly", "monthly", "yearly"}


def at(text: str, zone: str = "UTC") -> float:
    """Read "2026-11-18" (noon) or "2026-11-18 23:30"."""
    moment = datetime.fromisoformat(text if " " in text else f"{text} 12:00")
    return moment.replace(tzinfo=ZoneInfo(zone)).timestamp()


NOW = at("2026-11-18")  # a Wednesday of week 47


def point(sequence: int, created: float, machine: str = "m1", flags: int = 0) -> Point:
    return Point(
        point_id=f"p{sequence}",
        session_id="s",
        job_id="j",
        job_name="nightly",
        plugin="images",
        machine_id=machine,
        machine=f"name of {machine}",
        kind="increment",
        created=created,
        sequence=sequence,
        disks=(),
        block_size_bytes=1024 * 1024,
        flags=flags,
    )


def made(*times: str, zone: str = "UTC") -> list[Point]:
    return [point(number, at(text, zone)) for number, text in enumerate(times, 1)]


def daily(count: int, machine: str = "m1", last: float = NOW) -> list[Point]:
    return [point(number, last - (count - number) * DAY, machine) for number in range(1, count + 1)]


def judged(
    points: Sequence[Point],
    policy: Retention,
    now: float = NOW,
    *,
    present: Iterable[str] | None = None,
    pinned: Iterable[str] = (),
    trusted: bool = True,
) -> dict[str, Verdict]:
    verdicts = decide(
        points,
        policy,
        now,
        present_machines=None if present is None else frozenset(present),
        pinned=frozenset(pinned),
        clock_trusted=trusted,
    )
    assert [verdict.point_id for verdict in verdicts] == [
        one.point_id for one in sorted(points, key=lambda one: one.sequence)
    ]
    assert all(verdict.reasons for verdict in verdicts)
    return {verdict.point_id: verdict for verdict in verdicts}


def kept(verdicts: dict[str, Verdict]) -> set[str]:
    return {name for name, verdict in verdicts.items() if verdict.keep}


def reason(verdict: Verdict, code: str) -> Reason:
    return next(one for one in verdict.reasons if one.code == code)


def codes(verdict: Verdict) -> list[str]:
    return [one.code for one in verdict.reasons]


# --- the policy -----------------------------------------------------------------------------------


def test_a_policy_is_good_as_it_comes_and_with_every_rule_off() -> None:
    check(Retention())
    check(OFF)
    check(Retention(keep_days=36_500, keep_weekly=5_200, keep_monthly=1_200, keep_yearly=100, time_zone="Asia/Tokyo"))


@pytest.mark.parametrize(
    "name", ["keep_points", "keep_days", "keep_weekly", "keep_monthly", "keep_yearly", "deleted_after_days"]
)
@pytest.mark.parametrize("value", [-1, 10**9])
def test_a_number_out_of_range_is_named(name: str, value: int) -> None:
    with pytest.raises(InvalidValue, match=rf"^{name} is {value}: give 1 to \d+, or 0 to turn this rule off$"):
        check(msgspec.structs.replace(OFF, **{name: value}))


@pytest.mark.parametrize("zone", ["", "Mars/Olympus", "Europe", "/etc/passwd", "../x", "a\0b"])
def test_a_zone_that_does_not_exist_is_named(zone: str) -> None:
    with pytest.raises(InvalidValue, match="there is no time zone"):
        decide((), Retention(time_zone=zone), NOW, present_machines=None, pinned=frozenset(), clock_trusted=True)


# --- by number ------------------------------------------------------------------------------------


def test_the_newest_points_stay_and_say_how_long() -> None:
    verdicts = judged(daily(16), Retention(keep_points=14))
    assert kept(verdicts) == {f"p{number}" for number in range(3, 17)}
    assert verdicts["p2"].reasons == (Reason("expired", "beyond what is kept: the newest 14 points"),)
    assert verdicts["p3"].reasons == (
        Reason("newest_points", "one of the newest 14 points; goes after 1 more", after_points=1),
    )
    assert verdicts["p5"].reasons[0].text == "one of the newest 14 points; goes after 3 more"
    assert verdicts["p5"].machine == "name of m1"
    assert verdicts["p5"].created == daily(16)[4].created


def test_three_points_stay_whatever_the_policy_says() -> None:
    verdicts = judged(daily(5), OFF)
    assert kept(verdicts) == {"p3", "p4", "p5"}
    assert reason(verdicts["p3"], "minimum").text == "one of the newest 3 points, which always stay; goes after 1 more"
    verdicts = judged(daily(5), Retention(keep_points=1))
    assert kept(verdicts) == {"p3", "p4", "p5"}
    assert codes(verdicts["p5"]) == ["newest_points", "minimum"]
    assert reason(verdicts["p5"], "newest_points").text == "the newest point; goes after 1 more"


def test_each_machine_has_its_own_points() -> None:
    """One machine failed for weeks: its few old points are its newest ones."""
    old = [point(number, NOW - (100 - number) * DAY, "m2") for number in range(1, 5)]
    new = [point(number, NOW - (60 - number) * DAY, "m1") for number in range(10, 60)]
    verdicts = judged(old + new, Retention(keep_points=4, keep_days=2))
    assert kept(verdicts) == {"p1", "p2", "p3", "p4", "p56", "p57", "p58", "p59"}


def test_order_is_by_sequence_in_whatever_order_points_come() -> None:
    points = daily(6)
    assert kept(judged(points[::-1], Retention(keep_points=4))) == {"p3", "p4", "p5", "p6"}


# --- by hand, and read --------------------------------------------------------------------------------


def test_points_kept_by_hand_and_pinned_stay() -> None:
    points = daily(10)
    points[0] = msgspec.structs.replace(points[0], flags=KEPT_BY_HAND | 2)
    points[1] = msgspec.structs.replace(points[1], flags=2)
    verdicts = judged(points, Retention(keep_points=3), pinned=["p4", "unknown"])
    assert kept(verdicts) == {"p1", "p4", "p8", "p9", "p10"}
    assert verdicts["p1"].reasons == (Reason("kept_by_hand", "kept by hand"),)
    assert verdicts["p4"].reasons == (Reason("pinned", "being read"),)


# --- by days ----------------------------------------------------------------------------------------


def test_days_are_those_of_the_calendar_and_today_is_one() -> None:
    points = made("2026-11-15 23:59", "2026-11-16 00:00", "2026-11-17", "2026-11-18 01:00", *["2026-11-18"] * 3)
    verdicts = judged(points, msgspec.structs.replace(OFF, keep_days=3))
    assert kept(verdicts) == {"p2", "p3", "p4", "p5", "p6", "p7"}
    assert verdicts["p2"].reasons == (
        Reason("days", "of the last 3 days; goes from 2026-11-19 on", until=at("2026-11-19 00:00")),
    )
    assert kept(judged(points, msgspec.structs.replace(OFF, keep_days=3), at("2026-11-18 23:59"))) >= {"p2"}
    assert "p2" not in kept(judged(points, msgspec.structs.replace(OFF, keep_days=3), at("2026-11-19 00:00")))


def test_days_are_counted_in_the_zone_of_the_job() -> None:
    points = made("2026-11-16 23:30", *["2026-11-18 10:00"] * 3)
    policy = msgspec.structs.replace(OFF, keep_days=2)
    assert "p1" not in kept(judged(points, policy))
    assert "p1" in kept(judged(points, msgspec.structs.replace(policy, time_zone="Europe/Berlin")))
    assert "p1" not in kept(judged(points, msgspec.structs.replace(policy, time_zone="America/New_York")))


@pytest.mark.parametrize(
    ("zone", "day", "gone"),
    [
        ("Europe/Berlin", "2026-03-28", "2026-03-30"),  # a day of 23 hours between
        ("Europe/Berlin", "2026-10-24", "2026-10-26"),  # a day of 25 hours between
        ("America/Santiago", "2026-09-05", "2026-09-07"),  # midnight of the day between is left out
        ("America/Santiago", "2026-09-04", "2026-09-06"),  # midnight of the day it goes is left out
        ("Pacific/Apia", "2011-12-29", "2011-12-31"),  # the day between was left out
    ],
)
def test_changes_of_time_neither_add_nor_take_a_day(zone: str, day: str, gone: str) -> None:
    points = made(f"{day} 12:00", zone=zone) + daily(5, last=at(f"{day} 13:00", zone))[2:]
    policy = msgspec.structs.replace(OFF, keep_days=2, time_zone=zone)
    until = reason(judged(points, policy, at(f"{day} 14:00", zone))["p1"], "days").until
    assert until is not None
    assert datetime.fromtimestamp(until, ZoneInfo(zone)).date() == date.fromisoformat(gone)
    assert datetime.fromtimestamp(until - 1, ZoneInfo(zone)).date() < date.fromisoformat(gone)
    assert "p1" in kept(judged(points, policy, until - 1))
    assert "days" not in codes(judged(points, policy, until)["p1"])


# --- by weeks, months, years ---------------------------------------------------------------------------


def test_the_newest_point_of_each_week_stays() -> None:
    verdicts = judged(daily(40), msgspec.structs.replace(OFF, keep_weekly=4))
    sundays = {"2026-11-15": "p37", "2026-11-08": "p30", "2026-11-01": "p23"}
    assert kept(verdicts) == {"p38", "p39", "p40", *sundays.values()}
    assert reason(verdicts["p40"], "weekly") == Reason(
        "weekly", "newest of week 2026-W47 (1 of 4); goes when this week has a newer one", after_points=1
    )
    assert verdicts["p30"].reasons == (
        Reason(
            "weekly",
            "newest of week 2026-W45 (3 of 4); goes when 2 more weeks have a point, not before 2026-11-30",
            until=at("2026-11-30 00:00"),
            after_points=2,
        ),
    )
    assert reason(verdicts["p23"], "weekly").text.endswith("1 more week has a point, not before 2026-11-23")
    assert verdicts["p29"].reasons[0].text == "beyond what is kept: the newest 3 points, the newest of 4 weeks"


def test_weeks_without_a_point_are_not_counted() -> None:
    points = made("2026-06-01", "2026-08-04", "2026-09-01", "2026-11-09", "2026-11-10", "2026-11-11")
    verdicts = judged(points, msgspec.structs.replace(OFF, keep_weekly=3))
    assert kept(verdicts) == {"p2", "p3", "p4", "p5", "p6"}
    oldest = reason(verdicts["p2"], "weekly")
    assert oldest.text == "newest of week 2026-W32 (3 of 3); goes when 1 more week has a point"
    assert (oldest.until, oldest.after_points) == (None, 1)


def test_a_week_across_two_years_is_one_week() -> None:
    points = made("2026-12-27", "2026-12-28", "2026-12-31", "2027-01-03", "2027-01-04", "2027-01-05", "2027-01-06")
    verdicts = judged(points, msgspec.structs.replace(OFF, keep_weekly=3, keep_yearly=2), at("2027-01-06"))
    assert kept(verdicts) == {"p1", "p3", "p4", "p5", "p6", "p7"}
    assert reason(verdicts["p4"], "weekly").text.startswith("newest of week 2026-W53 (2 of 3);")
    assert codes(verdicts["p3"]) == ["yearly"]
    assert reason(verdicts["p3"], "yearly").until == at("2028-01-01 00:00")


def test_months_and_years_and_the_reasons_of_a_point_that_several_rules_keep() -> None:
    points = made("2024-12-31", "2025-12-30", "2025-12-31", "2026-09-30", "2026-10-31", "2026-11-16", "2026-11-17")
    verdicts = judged(points, msgspec.structs.replace(OFF, keep_monthly=3, keep_yearly=3))
    assert kept(verdicts) == {"p1", "p3", "p4", "p5", "p6", "p7"}
    assert codes(verdicts["p7"]) == ["minimum", "monthly", "yearly"]
    october = reason(verdicts["p5"], "monthly")
    assert (
        october.text == "newest of month 2026-10 (2 of 3); goes when 2 more months have a point, not before 2027-01-01"
    )
    assert october.until == at("2027-01-01 00:00")
    assert reason(verdicts["p1"], "yearly").text.startswith("newest of year 2024 (3 of 3); goes when 1 more year has")


def test_weeks_begin_on_monday_in_the_zone_of_the_job() -> None:
    points = made("2026-11-15 23:30", "2026-11-16 10:00", "2026-11-17", "2026-11-18 09:00", "2026-11-18 10:00")
    policy = msgspec.structs.replace(OFF, keep_weekly=2)
    assert "p1" in kept(judged(points, policy))
    assert "p1" not in kept(judged(points, msgspec.structs.replace(policy, time_zone="Asia/Tokyo")))


# --- wrong clocks -----------------------------------------------------------------------------------------


def test_a_point_from_the_future_takes_no_week_from_another() -> None:
    points = daily(40)
    points.insert(30, msgspec.structs.replace(points[30], point_id="wrong", created=at("2099-01-01")))
    points = [msgspec.structs.replace(one, sequence=number) for number, one in enumerate(points, 1)]
    policy = msgspec.structs.replace(OFF, keep_weekly=4)
    verdicts = judged(points, policy)
    assert kept(verdicts) == kept(judged(daily(40), policy)) | {"wrong"}
    assert reason(verdicts["wrong"], "weekly").text.startswith(
        "its time cannot be right, so it may be the newest of a week (3 of 4); goes when 2 more weeks have a point"
    )


def test_a_point_from_the_past_takes_no_week_from_another_even_when_what_shows_it_would_go() -> None:
    """p2 alone shows that p3 was not made in October; both stay until p3 goes."""
    points = made("2026-09-07", "2026-11-03", "2026-10-05", "2026-11-05", "2026-11-16", "2026-11-17", "2026-11-18")
    policy = msgspec.structs.replace(OFF, keep_weekly=3)
    verdicts = judged(points, policy)
    assert {"p1", "p2", "p3", "p4"} <= kept(verdicts)
    assert verdicts["p2"].reasons == (
        Reason("out_of_order", "its time contradicts another point's, and goes when that one does"),
    )
    assert reason(verdicts["p3"], "weekly").text.startswith("its time contradicts another point's, so it may be")
    assert reason(verdicts["p1"], "weekly").text.startswith("newest of week 2026-W37 (3 of 3);")


def test_a_wrong_clock_of_a_week_does_not_make_the_newest_points_old() -> None:
    """A dead battery: a week's points say 1970. They count as not older than the ones before them."""
    good = [point(number, NOW - (30 - number) * DAY) for number in range(1, 21)]
    bad = [point(number, number * DAY) for number in range(21, 28)]
    after = [point(number, NOW - (30 - number) * DAY) for number in range(28, 31)]
    assert kept(judged(good + bad + after, msgspec.structs.replace(OFF, keep_days=14))) == {
        f"p{number}" for number in range(17, 31)
    }


def test_points_that_say_nonsense_are_judged_by_their_order() -> None:
    times = (float("nan"), float("inf"), float("-inf"), -1e300, 1e300, -5.0)
    points = [point(number, created) for number, created in enumerate(times, 1)]
    every = Retention(keep_points=2, keep_days=3, keep_weekly=2, keep_monthly=2, keep_yearly=2, deleted_after_days=1)
    verdicts = judged(points, every, present=[])
    assert kept(verdicts) == {"p1", "p2", "p3", "p4", "p5", "p6"}
    assert reason(verdicts["p1"], "days").text == "its time cannot be right, so it may be of the last 3 days"
    points += [point(10 + number, NOW - (9 - number) * DAY) for number in range(1, 9)]
    assert kept(judged(points, msgspec.structs.replace(OFF, keep_days=3))) == {"p16", "p17", "p18"}


# --- machines that are gone ----------------------------------------------------------------------------------


def test_a_deleted_machine_loses_all_its_points_after_some_days_and_no_other_one_does() -> None:
    points = [*daily(3, "m1", NOW - 40 * DAY), *[point(10 + n, NOW - (40 - n) * DAY, "m2") for n in range(5)]]
    points[0] = msgspec.structs.replace(points[0], flags=KEPT_BY_HAND)
    policy = Retention(deleted_after_days=30)
    verdicts = judged(points, policy, present=["m2"], pinned=["p3"])
    assert kept(verdicts) == {"p1", "p3", *[f"p{10 + n}" for n in range(5)]}
    assert codes(verdicts["p1"]) == ["kept_by_hand"]
    assert codes(verdicts["p3"]) == ["pinned"]
    assert verdicts["p2"].reasons == (
        Reason("machine_deleted", "the machine is not in the inventory, and its newest point is older than 30 days"),
    )
    assert kept(judged(points, policy, present=None)) == set(verdicts)
    assert kept(judged(points, msgspec.structs.replace(policy, deleted_after_days=0), present=[])) == set(verdicts)
    assert kept(judged(points, policy, present=["m1", "m2"])) == set(verdicts)
    assert kept(judged(points, policy, present=["m2"], trusted=False)) == set(verdicts)


def test_a_machine_that_is_not_there_says_when_its_points_go() -> None:
    points = daily(3, last=at("2026-11-10 23:00"))
    points[0] = msgspec.structs.replace(points[0], flags=KEPT_BY_HAND)
    policy = Retention(deleted_after_days=30)
    verdicts = judged(points, policy, present=[])
    due = reason(verdicts["p3"], "machine_absent")
    assert due.text == "the machine is not in the inventory: all its points go from 2026-12-11 on"
    assert due.until == at("2026-12-11 00:00")
    assert codes(verdicts["p1"]) == ["kept_by_hand", "newest_points"]
    assert kept(judged(points, policy, due.until - 1, present=[])) == {"p1", "p2", "p3"}
    assert kept(judged(points, policy, due.until, present=[])) == {"p1"}


def test_a_deleted_machine_whose_newest_point_has_no_time_waits() -> None:
    points = [*daily(3, last=NOW - 90 * DAY), point(4, at("2099-01-01"))]
    assert kept(judged(points, Retention(deleted_after_days=30), present=[])) == {"p1", "p2", "p3", "p4"}


# --- a clock in doubt ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["keep_days", "keep_weekly", "keep_monthly", "keep_yearly", "deleted_after_days"])
def test_without_a_trusted_clock_nothing_goes_if_any_rule_looks_at_it(name: str) -> None:
    policy = msgspec.structs.replace(Retention(keep_points=4), **{name: 1})
    verdicts = judged(daily(9, last=NOW - 900 * DAY), policy, present=[], trusted=False)
    assert kept(verdicts) == set(verdicts)
    assert codes(verdicts["p5"]) == ["clock_not_trusted"]
    assert codes(verdicts["p6"]) == ["newest_points"]
    assert kept(judged(daily(9), Retention(keep_points=4), trusted=False)) == {"p6", "p7", "p8", "p9"}


def test_a_clock_is_trusted_that_goes_as_expected() -> None:
    week = 7 * DAY
    assert clock_doubt(ClockReading(NOW, 9.0), newest_point=None, last=None) == ""
    assert clock_doubt(ClockReading(NOW, 9.0), newest_point=NOW, last=None) == ""
    last = ClockReading(NOW - week, 1000.0)
    assert clock_doubt(ClockReading(NOW, 1000.0 + week), newest_point=NOW - week, last=last) == ""
    assert clock_doubt(ClockReading(NOW + DAY, 1000.0 + week), newest_point=NOW - week, last=last) == ""
    assert clock_doubt(ClockReading(NOW, 10.0), newest_point=None, last=ClockReading(NOW - DAY, 1000.0)) == ""


def test_a_clock_behind_the_newest_point_is_in_doubt() -> None:
    text = clock_doubt(ClockReading(NOW, 9.0), newest_point=NOW + 60, last=None)
    assert text == "the clock shows 2026-11-18 12:00 UTC, which is before the newest point (2026-11-18 12:01 UTC)"
    assert "1e+300" in clock_doubt(ClockReading(NOW, 9.0), newest_point=1e300, last=None)


def test_a_clock_that_ran_ahead_is_in_doubt() -> None:
    newest = NOW - 9 * DAY
    text = clock_doubt(ClockReading(NOW, 6 * DAY), newest_point=newest, last=ClockReading(NOW - 8 * DAY, 0.0))
    assert text == (
        "the clock shows 2026-11-18 12:00 UTC, more than 24 hours ahead of 2026-11-16 12:00 UTC: "
        "the last session's 2026-11-10 12:00 UTC and the uptime since"
    )
    # Started since: only its uptime is known to have passed.
    last = ClockReading(NOW - 8 * DAY, 100 * DAY)
    assert clock_doubt(ClockReading(NOW, 6.9 * DAY), newest_point=newest, last=last) != ""
    assert clock_doubt(ClockReading(NOW, 7.1 * DAY), newest_point=newest, last=last) == ""


# --- against a model ----------------------------------------------------------------------------------------


def model(points: Sequence[Point], policy: Retention, now: float) -> set[str]:
    """What stays of points of good clocks: sort, slice, and the last of each calendar key."""
    zone = ZoneInfo(policy.time_zone)
    stay = {one.point_id for one in points if one.flags & 1}
    for machine in {one.machine_id for one in points}:
        own = sorted((one for one in points if one.machine_id == machine), key=lambda one: one.sequence)
        days = {one.point_id: datetime.fromtimestamp(one.created, zone).date() for one in own}
        today = datetime.fromtimestamp(now, zone).date()
        stay |= {one.point_id for one in own[-max(policy.keep_points, 3) :]}
        stay |= {name for name, day in days.items() if day > today - timedelta(days=policy.keep_days)}
        for wanted, form in ((policy.keep_weekly, "%G-%V"), (policy.keep_monthly, "%Y-%m"), (policy.keep_yearly, "%Y")):
            newest = {day.strftime(form): name for name, day in days.items()}
            stay |= {newest[key] for key in sorted(newest, reverse=True)[:wanted]}
    return stay


numbers = st.integers(0, 6)
policies = st.builds(
    Retention,
    keep_points=numbers,
    keep_days=numbers,
    keep_weekly=numbers,
    keep_monthly=numbers,
    keep_yearly=numbers,
    time_zone=st.sampled_from(("UTC", "Europe/Berlin", "America/Santiago", "Pacific/Auckland")),
)
# Hours between a point and the next one: hours, days, weeks, months; or all of them in one history.
gaps = (st.integers(0, 30), st.integers(20, 28), st.integers(40, 200), st.integers(100, 2000))
steady = settings(deadline=None)


@st.composite
def good_points(draw: st.DrawFn, machines: int = 2, fewest: int = 0) -> list[Point]:
    """Points in the order of their times, the newest one an hour or more before NOW."""
    ages = draw(st.lists(draw(st.sampled_from((*gaps, st.one_of(gaps)))), min_size=fewest, max_size=30))
    moment = NOW - 3600.0 * (1 + sum(ages))
    found = []
    for number, age in enumerate(ages, 1):
        moment += age * 3600.0
        machine = f"m{draw(st.integers(1, machines))}"
        found.append(point(number, moment, machine, draw(st.sampled_from((0, 0, 0, 0, 1, 2)))))
    return found


@st.composite
def any_points(draw: st.DrawFn) -> list[Point]:
    """Good points, some of which had a wrong clock: a point's own, or that of all until it was set right."""
    found = draw(good_points())
    for _ in range(draw(st.integers(0, 4))):
        if found:
            begin = draw(st.integers(0, len(found) - 1))
            end = draw(st.integers(begin + 1, min(begin + 6, len(found))))
            shift = draw(st.integers(-4000, 4000)) * 3600.0
            for index in range(begin, end):
                found[index] = msgspec.structs.replace(found[index], created=found[index].created + shift)
    return found


@steady
@given(good_points(), policies)
def test_good_clocks_give_what_the_model_gives(points: list[Point], policy: Retention) -> None:
    assert kept(judged(points, policy)) == model(points, policy, NOW)


@steady
@given(any_points(), policies, st.booleans())
def test_never_fewer_than_the_minimum(points: list[Point], policy: Retention, trusted: bool) -> None:
    stay = kept(judged(points, policy, present=[], trusted=trusted))
    for machine in ("m1", "m2"):
        own = [one.point_id for one in points if one.machine_id == machine]
        assert stay.issuperset(own[-MINIMUM_POINTS:])
        assert stay.issuperset(own[len(own) - policy.keep_points :] if policy.keep_points < len(own) else own)


@steady
@given(any_points(), policies, st.sampled_from(Retention.__struct_fields__[:5]), st.integers(1, 9))
def test_to_keep_more_never_loses_a_point(points: list[Point], policy: Retention, name: str, more: int) -> None:
    raised = msgspec.structs.replace(policy, **{name: getattr(policy, name) + more})
    assert kept(judged(points, policy)) <= kept(judged(points, raised))


@steady
@given(any_points(), policies, st.sampled_from((0, 10, 60)), st.sets(st.integers(1, 30), max_size=2))
def test_what_was_kept_is_kept_again(points: list[Point], policy: Retention, days: int, read: set[int]) -> None:
    policy = msgspec.structs.replace(policy, deleted_after_days=days)
    pinned = [f"p{number}" for number in read]
    verdicts = judged(points, policy, present=["m1"], pinned=pinned)
    left = [one for one in points if verdicts[one.point_id].keep]
    assert kept(judged(left, policy, present=["m1"], pinned=pinned)) == kept(verdicts)


@settings(deadline=None, max_examples=100)
@given(good_points(machines=1, fewest=6), policies, st.data())
def test_a_point_with_a_wrong_clock_loses_none_that_rules_of_time_keep(
    points: list[Point], policy: Retention, data: st.DataObject
) -> None:
    """Not in the first decision, and not in the next one, when what shows that it is wrong could have gone."""
    policy = msgspec.structs.replace(policy, keep_points=data.draw(st.sampled_from((0, 3, 8))))
    before = judged(points, policy)
    stay = {name for name, verdict in before.items() if verdict.keep and TIME_CODES & set(codes(verdict))}
    place = data.draw(st.integers(0, len(points)))
    out_of_order = [one.created - 1 for one in points[:place]] + [one.created + 1 for one in points[place:]]
    wrong = data.draw(st.sampled_from(out_of_order) | st.just(at("2099-01-01")))
    added = msgspec.structs.replace(point(0, wrong), point_id="wrong", flags=data.draw(st.sampled_from((0, 1))))
    together = [*points[:place], added, *points[place:]]
    together = [msgspec.structs.replace(one, sequence=number) for number, one in enumerate(together)]
    verdicts = judged(together, policy)
    assert stay <= kept(verdicts)
    left = [one for one in together if verdicts[one.point_id].keep]
    assert stay <= kept(judged(left, policy))


@steady
@given(good_points(machines=1), policies, st.integers(1, 40))
@example(daily(40), Retention(keep_points=0, keep_days=2, keep_weekly=4, keep_monthly=2), 1)
def test_no_reason_ends_before_it_says_so(points: list[Point], policy: Retention, days: int) -> None:
    """Whatever comes before its time, or fewer points than it names, however far apart."""
    for name, verdict in judged(points, policy).items():
        for one in verdict.reasons if verdict.keep else ():
            if one.until is not None:
                step = (one.until - 1 - NOW) / 10
                more = [point(1000 + number, NOW + number * step) for number in range(1, 11)]
                assert one.code in codes(judged([*points, *more], policy, one.until - 1)[name])
            if one.after_points is not None:
                more = [point(1000 + number, NOW + number * days * DAY) for number in range(1, one.after_points)]
                assert one.code in codes(judged([*points, *more], policy, NOW + 400 * DAY)[name])
            if one.code == "days":
                assert one.until is not None
                assert "days" not in codes(judged(points, policy, one.until)[name])
            if one.code in {"newest_points", "minimum"}:
                more = [point(1000 + number, NOW) for number in range(one.after_points or 0)]
                assert one.code not in codes(judged([*points, *more], policy)[name])


# --- over years ---------------------------------------------------------------------------------------------


def lived(policy: Retention, days: int, skip: Iterable[int] = ()) -> tuple[list[Point], list[Point]]:
    """Back up once a day and forget what goes, in each session. Return what is left, and all there ever was."""
    left: list[Point] = []
    ever: list[Point] = []
    for day in range(days):
        if day in skip:
            continue
        new = point(day + 1, NOW + day * DAY)
        left, ever = [*left, new], [*ever, new]
        stay = kept(judged(left, policy, new.created + 600))
        left = [one for one in left if one.point_id in stay]
    return left, ever


def test_keep_14_leaves_14_for_years() -> None:
    left, ever = lived(Retention(keep_points=14), 800)
    assert left == ever[-14:]


@pytest.mark.parametrize(
    "policy",
    [
        Retention(keep_points=0, keep_weekly=4, keep_monthly=12, keep_yearly=3, time_zone="Europe/Berlin"),
        Retention(keep_points=7, keep_days=10, keep_monthly=40, time_zone="America/Santiago"),
    ],
)
def test_what_is_left_after_years_is_what_the_model_takes_from_all_there_ever_was(policy: Retention) -> None:
    left, ever = lived(policy, 1100, skip={*range(90, 130), 500, 501, *range(800, 830)})
    assert {one.point_id for one in left} == model(ever, policy, ever[-1].created + 600)


# --- purity ------------------------------------------------------------------------------------------------


def test_it_reads_no_clock_and_no_file() -> None:
    policy = Retention(keep_days=3, keep_weekly=2, deleted_after_days=30, time_zone="Europe/Berlin")
    points = daily(30)
    first = judged(points, policy, present=["m1"])

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    with pytest.MonkeyPatch.context() as patch:
        for name in ("time", "time_ns", "localtime", "gmtime", "monotonic"):
            patch.setattr(time, name, refuse)
        patch.setattr(builtins, "open", refuse)
        again = judged(points, policy, present=["m1"])
    assert again == first
    assert points == daily(30)
