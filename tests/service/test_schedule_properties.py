"""Schedules over all zones of the world and the days on which their clocks are changed."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

from hypothesis import given, settings
from hypothesis import strategies as st

from vbrcore.model.days import WEEKDAYS, is_day
from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Schedule, Window
from vbrcore.model.moments import moment_on
from vbrcore.model.window import closing, is_open, opening
from vbrcore.service.schedule import check, first_run, following_run, preview

# Those that `right/` and `posix/` double are left out, and leap seconds are nobody's schedule.
ZONES = sorted(name for name in available_timezones() if "/" in name and not name.startswith(("right/", "posix/")))
zones = st.sampled_from(ZONES)
times = st.builds("{:02d}:{:02d}".format, st.integers(0, 23), st.integers(0, 59))
# No zone has left out or doubled a whole day since 2012.
moments = st.integers(
    int(datetime(2012, 6, 1, tzinfo=UTC).timestamp()), int(datetime(2037, 6, 1, tzinfo=UTC).timestamp())
).map(float)
rules = st.lists(
    st.sampled_from((*WEEKDAYS, *(f"last {day}" for day in WEEKDAYS), "first sun", "third mon", "1", "15", "31")),
    min_size=1,
    max_size=3,
).map(", ".join)
crons = st.sampled_from(
    ("* * * * *", "*/15 * * * *", "30 2 * * *", "0 0 * * *", "59 23 L * *", "0 8-18 * * MON-FRI", "5 1-3 * * *")
)
windows = st.builds(Window, times, times, zones).filter(lambda window: window.begin != window.end)
schedules = st.one_of(
    st.builds(Schedule, st.just("daily"), times, zone=zones),
    st.builds(Schedule, st.just("days"), times, zone=zones, days=rules),
    st.builds(Schedule, st.just("cron"), cron=crons, zone=zones),
    st.builds(Schedule, st.just("every"), every_s=st.integers(60, 10 * 86400), window=st.just(Window()) | windows),
)
few = settings(max_examples=60, deadline=None)


def changes_of(zone: ZoneInfo, year: int) -> list[date]:
    """Return the days of a year on which a zone's clock is changed."""
    noons = [datetime(year, 1, 1, 12, tzinfo=UTC) + timedelta(days=number) for number in range(366)]
    offsets = [noon.astimezone(zone).utcoffset() for noon in noons]
    return [noon.date() for noon, one, next_one in zip(noons, offsets, offsets[1:], strict=False) if one != next_one]


@few
@given(schedules, moments, st.floats(0, 40 * 86400))
def test_the_next_run_is_after_now_and_never_goes_back(schedule: Schedule, now: float, later_s: float) -> None:
    first = first_run(schedule, now)
    assert first is not None
    assert first > now
    assert first_run(schedule, now + 0.5) >= first  # type: ignore[operator]
    following = following_run(schedule, first, max(first, now + later_s))
    assert following is not None
    assert following > max(first, now + later_s)


@few
@given(st.builds(Schedule, st.just("days"), times, zone=zones, days=rules), moments)
def test_each_day_of_a_rule_has_one_run_and_no_other_day_has(schedule: Schedule, now: float) -> None:
    zone = ZoneInfo(schedule.zone)
    first_day = datetime.fromtimestamp(now, zone).date() + timedelta(days=1)
    count = 60
    wanted = [day for number in range(count) if is_day(schedule.days, day := first_day + timedelta(days=number))]
    runs: list[float] = []
    moment = moment_on(first_day, time(), zone) - 1
    for _ in wanted:
        following = following_run(schedule, moment, moment)
        assert following is not None
        runs.append(moment := following)
    at = time.fromisoformat(schedule.daily)
    assert runs == sorted(set(runs))
    for day, run in zip(wanted, runs, strict=True):
        assert run == moment_on(day, at, zone)
        local = datetime.fromtimestamp(run, zone)
        shown = local.replace(tzinfo=None)
        # By the clock of that day, or, where it leaves the time out, when it is put forward over it.
        assert shown == datetime.combine(day, at) or (
            shown > datetime.combine(day, at)
            and datetime.fromtimestamp(run - 1, zone).replace(tzinfo=None) < datetime.combine(day, at)
        )


@few
@given(zones, times, st.integers(2013, 2036))
def test_a_daily_job_runs_once_on_each_day_of_change(name: str, at: str, year: int) -> None:
    zone, schedule = ZoneInfo(name), Schedule("daily", at, zone=name)
    for day in changes_of(zone, year)[:4]:
        begin = moment_on(day - timedelta(days=3), time(), zone) - 1
        runs = list(preview(schedule, first_run(schedule, begin), 7))
        gaps = [later - earlier for earlier, later in pairwise(runs)]
        assert all(20 * 3600 <= gap <= 28 * 3600 for gap in gaps)


@few
@given(windows, moments)
def test_a_window_opens_and_closes(window: Window, now: float) -> None:
    zone = ZoneInfo(window.zone)
    opens = opening(window, now, zone)
    assert opens >= now
    assert is_open(window, opens, zone)
    assert (opens == now) == is_open(window, now, zone)
    closes = closing(window, opens, zone)
    assert closes is not None
    assert closes > opens
    assert not is_open(window, opens - 1, zone) or opens == now
    middle = (opens + closes) / 2
    assert is_open(window, opens, zone)
    assert is_open(window, middle, zone) or changed_between(opens, closes, zone)


def changed_between(begin: float, end: float, zone: ZoneInfo) -> bool:
    return datetime.fromtimestamp(begin, zone).utcoffset() != datetime.fromtimestamp(end, zone).utcoffset()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("0123456789*/,-L#W MONFRI", max_size=8), min_size=4, max_size=6).map(" ".join))
def test_any_text_is_cron_text_or_refused(text: str) -> None:
    try:
        check(Schedule("cron", cron=text))
    except InvalidValue:
        return
    assert first_run(Schedule("cron", cron=text), 1_790_000_000.0) is not None
