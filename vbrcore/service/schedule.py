"""At which moments a job is due that goes by the clock. Pure but for the time zones."""

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from vbrcore.model.days import check_days, is_day
from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Schedule
from vbrcore.model.moments import day_after, local_day, moment_on
from vbrcore.model.window import check_window, contains, is_open, opening, time_of_day
from vbrcore.model.zones import zone_named

if TYPE_CHECKING:
    from cronsim import CronSim

SHORTEST_INTERVAL_S = 60
SHORTEST_PAUSE_S = 10
LONGEST_INTERVAL_S = 366 * 86400
MOST_RETRIES = 100
_LONGEST_CRON = 200
_CRON_FIELDS = 5
_CRON_MOMENTS = 2000  # looked at for one in the window: more than the minutes of a day
_LATEST = 250_000_000_000.0  # seconds since the epoch: cron text can name years that no clock will see


def check(schedule: Schedule) -> None:
    """Raise `InvalidValue` for a schedule that can never be due, or too often."""
    zone_named(schedule.zone)
    zone_named(schedule.window.zone)
    check_window(schedule.window)
    if schedule.hard_window and not schedule.window.begin:
        raise InvalidValue("a hard window needs a window")
    _check_kind(schedule)
    if not 0 <= schedule.retries <= MOST_RETRIES:
        raise InvalidValue(f"retries are 0 to {MOST_RETRIES}, not {schedule.retries}")
    _check_span("the wait before a retry", schedule.retry_wait_s, 1)


def _check_kind(schedule: Schedule) -> None:
    match schedule.kind:
        case "daily" | "days":
            at = time_of_day(schedule.daily)
            if schedule.kind == "days":
                check_days(schedule.days)
                if not schedule.days:
                    raise InvalidValue("name at least one day, e.g. sat, 'last sat' or 1")
            window = schedule.window
            # Where both have the same zone that can be seen at once; otherwise it depends on the time of the year.
            if window.zone == schedule.zone and not contains(window, at):
                raise InvalidValue(f"{schedule.daily} lies outside the window {window.begin}-{window.end}")
        case "every":
            _check_span("an interval", schedule.every_s, SHORTEST_INTERVAL_S)
        case "continuous":
            _check_span("a pause", schedule.every_s, SHORTEST_PAUSE_S)
        case "after" if not schedule.after:
            raise InvalidValue("name the job whose runs it follows")
        case "cron" if following_run(schedule, 0.0, 1_800_000_000.0) is None:
            raise InvalidValue(f"{schedule.cron!r} is never due, or never in its window")


def _check_span(what: str, span_s: int, shortest_s: int) -> None:
    if not shortest_s <= span_s <= LONGEST_INTERVAL_S:
        raise InvalidValue(f"{what} has {shortest_s} s to {LONGEST_INTERVAL_S // 86400} days, not {span_s} s")


def first_run(schedule: Schedule, now: float) -> float | None:
    """Return when a new schedule is first due, in seconds since the epoch; None: not by the clock."""
    return following_run(schedule, now, now)


def following_run(schedule: Schedule, due: float, now: float) -> float | None:
    """Return the first moment after `now` at which a job that was due at `due` is due again.

    Moments that were missed meanwhile are passed over: a job that was due many times runs once. None: not by the clock.
    """
    match schedule.kind:
        case "none" | "after" | "continuous":
            return None
        case "every":
            passed = max(0.0, now - due) // schedule.every_s
            # A beat that falls outside the window waits for it, and goes on from there.
            return opening(schedule.window, due + (passed + 1) * schedule.every_s, zone_named(schedule.window.zone))
        case "daily" | "days":
            return next(at for at in _days(schedule, now) if at > now)
        case "cron":
            return _next_cron(schedule, now)


def preview(schedule: Schedule, next_run: float | None, count: int) -> Iterator[float]:
    """Yield the next moments from `next_run` on, `count` at the most."""
    for _ in range(count):
        if next_run is None:
            return
        yield next_run
        next_run = following_run(schedule, next_run, next_run)


def _days(schedule: Schedule, now: float) -> Iterator[float]:
    """Yield the moments of a time of day, in order. Each day that the rule names has one."""
    zone, at = zone_named(schedule.zone), time_of_day(schedule.daily)
    day = day_after(local_day(now, zone), -1)  # a time that is left out before midnight counts after it
    while True:
        if schedule.kind == "daily" or is_day(schedule.days, day):
            yield moment_on(day, at, zone)
        day = day_after(day)


def _next_cron(schedule: Schedule, now: float) -> float | None:
    """Of a time that is there twice the first counts; one that is left out, the moment after."""
    window, window_zone = schedule.window, zone_named(schedule.window.zone)
    cron = _cron(schedule, now)
    for _ in range(_CRON_MOMENTS):
        try:
            moment = next(cron).timestamp()
        except StopIteration:
            return None
        if moment > now and is_open(window, moment, window_zone):
            return moment if moment < _LATEST else None
    return None


def _cron(schedule: Schedule, now: float) -> "CronSim":
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - few services have cron text

    text = schedule.cron
    fields = text.split()
    if len(fields) != _CRON_FIELDS or len(text) > _LONGEST_CRON or not text.isascii():
        raise InvalidValue(
            f"{text[:_LONGEST_CRON]!r} is no cron text: give minute, hour, day, month and day of the week"
        )
    try:
        return CronSim(text, datetime.fromtimestamp(now, zone_named(schedule.zone)))
    except CronSimError as error:
        raise InvalidValue(f"{text!r} is no cron text: {error}") from error
