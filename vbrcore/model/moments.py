"""Local times as moments, in zones whose clocks are changed. Pure."""

from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo


def moment_on(day: date, at: time, zone: "ZoneInfo", *, fold: int = 0) -> float:
    """Return when a clock in the zone shows this time of this day, in seconds since the epoch.

    Of a time that is there twice it is the first (the second with `fold` 1). A time that is left out counts as the
    moment at which the clock is put forward.
    """
    local = datetime.combine(day, at, zone)
    moment = local.replace(fold=fold).timestamp()
    if datetime.fromtimestamp(moment, zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return moment
    return _put_forward(local, zone)


def local_day(moment: float, zone: "ZoneInfo") -> date:
    """Return the day that a calendar in the zone shows."""
    return datetime.fromtimestamp(moment, zone).date()


def day_after(day: date, days: int = 1) -> date:
    return day + timedelta(days=days)


def _put_forward(missing: datetime, zone: "ZoneInfo") -> float:
    """Find the change that leaves a local time out: between that time by the clock after it and by the one before."""
    low = int(missing.replace(fold=1).timestamp())
    high = int(missing.replace(fold=0).timestamp())
    before = _offset(low, zone)
    while low + 1 < high:
        middle = (low + high) // 2
        if _offset(middle, zone) == before:
            low = middle
        else:
            high = middle
    return float(high)


def _offset(moment: float, zone: "ZoneInfo") -> timedelta:
    return datetime.fromtimestamp(moment, UTC).astimezone(zone).utcoffset() or timedelta()
