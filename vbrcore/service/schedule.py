"""When a job is due. Pure but for the time zones."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Schedule
from vbrcore.model.window import time_of_day
from vbrcore.model.zones import zone_named

SHORTEST_INTERVAL_S = 60
LONGEST_INTERVAL_S = 366 * 86400


def check(schedule: Schedule) -> None:
    """Raise `InvalidValue` for a schedule that can never be due, or too often."""
    if schedule.kind == "daily":
        time_of_day(schedule.daily)
        zone_named(schedule.zone)
    if schedule.kind == "every" and not SHORTEST_INTERVAL_S <= schedule.every_s <= LONGEST_INTERVAL_S:
        raise InvalidValue(
            f"an interval has {SHORTEST_INTERVAL_S} s to {LONGEST_INTERVAL_S // 86400} days, not {schedule.every_s} s"
        )


def first_run(schedule: Schedule, now: float) -> float | None:
    """Return when a new schedule is first due, in seconds since the epoch; None: never."""
    return following_run(schedule, now, now)


def following_run(schedule: Schedule, due: float, now: float) -> float | None:
    """Return the first moment after `now` at which a job that was due at `due` is due again.

    Moments that were missed meanwhile are passed over: a job that was due many times runs once.
    """
    match schedule.kind:
        case "none":
            return None
        case "every":
            passed = max(0.0, now - due) // schedule.every_s
            return due + (passed + 1) * schedule.every_s
        case "daily":
            return _next_daily(time_of_day(schedule.daily), zone_named(schedule.zone), now)


def _next_daily(at: time, zone: ZoneInfo, now: float) -> float:
    """A time that a change to summer time leaves out counts as the same distance from midnight in normal time."""
    day = datetime.fromtimestamp(now, zone).date()
    while True:
        moment = datetime.combine(day, at, zone).astimezone(UTC).timestamp()
        if moment > now:
            return moment
        day += timedelta(days=1)
