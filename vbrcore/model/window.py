"""A time of each day. Pure."""

from datetime import datetime, time
from typing import TYPE_CHECKING

from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Window
from vbrcore.model.moments import day_after, local_day, moment_on

if TYPE_CHECKING:
    from collections.abc import Iterator
    from zoneinfo import ZoneInfo

_LOOKED_AHEAD_DAYS = 3  # one may be the day on which the clock leaves out a whole window


def check_window(window: Window) -> None:
    """Raise `InvalidValue` for a window that is none."""
    if bool(window.begin) != bool(window.end):
        raise InvalidValue("a window has a begin and an end")
    if window.begin and time_of_day(window.begin) == time_of_day(window.end):
        raise InvalidValue(f"a window from {window.begin} to {window.end} has no length")


def is_open(window: Window, now: float, zone: "ZoneInfo") -> bool:
    """Return whether `now` (seconds since the epoch) lies in the window; the begin does, the end does not."""
    return contains(window, datetime.fromtimestamp(now, zone).time())


def contains(window: Window, at: time) -> bool:
    """Return whether a time of day, in the window's zone, lies in it."""
    if not window.begin:
        return True
    begin, end = time_of_day(window.begin), time_of_day(window.end)
    if begin < end:
        return begin <= at < end
    return at >= begin or at < end


def opening(window: Window, now: float, zone: "ZoneInfo") -> float:
    """Return the first moment from `now` on that lies in the window; seconds since the epoch."""
    if is_open(window, now, zone):
        return now
    begins = _moments(time_of_day(window.begin), now, zone)
    return next(at for at in begins if at > now and is_open(window, at, zone))


def closing(window: Window, now: float, zone: "ZoneInfo") -> float | None:
    """Return when the window that is open at `now` ends, `now` where it is not open; None: never."""
    if not window.begin:
        return None
    if not is_open(window, now, zone):
        return now
    return next(at for at in _moments(time_of_day(window.end), now, zone) if at > now)


def _moments(at: time, now: float, zone: "ZoneInfo") -> "Iterator[float]":
    """Yield when it is that time, around and after `now`, in order; both times where the clock shows it twice."""
    day = local_day(now, zone)
    for later in range(-1, _LOOKED_AHEAD_DAYS + 1):
        yield from sorted({moment_on(day_after(day, later), at, zone, fold=fold) for fold in (0, 1)})


def time_of_day(text: str) -> time:
    """Read "HH:MM". Raises `InvalidValue`."""
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - the zone stands beside it
    except ValueError as error:
        raise InvalidValue(f"{text!r} is no time of day of the form HH:MM") from error
