"""A time of each day. Pure."""

from datetime import datetime, time
from typing import TYPE_CHECKING

from vbrcore.model.errors import InvalidValue
from vbrcore.model.job import Window

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


def check_window(window: Window) -> None:
    """Raise `InvalidValue` for a window that is none."""
    if bool(window.begin) != bool(window.end):
        raise InvalidValue("a window has a begin and an end")
    if window.begin and time_of_day(window.begin) == time_of_day(window.end):
        raise InvalidValue(f"a window from {window.begin} to {window.end} has no length")


def is_open(window: Window, now: float, zone: "ZoneInfo") -> bool:
    """Return whether `now` (seconds since the epoch) lies in the window; the begin does, the end does not."""
    if not window.begin:
        return True
    begin, end = time_of_day(window.begin), time_of_day(window.end)
    at = datetime.fromtimestamp(now, zone).time()
    if begin < end:
        return begin <= at < end
    return at >= begin or at < end


def time_of_day(text: str) -> time:
    """Read "HH:MM". Raises `InvalidValue`."""
    try:
        return datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - the zone stands beside it
    except ValueError as error:
        raise InvalidValue(f"{text!r} is no time of day of the form HH:MM") from error
