"""Days, weeks, months and years of a calendar. A period is known by its first day."""

from datetime import date, datetime, time, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

Period = Literal["week", "month", "year"]


def day_of(moment: float, zone: ZoneInfo) -> date:
    """Return the day on which a moment (seconds since the epoch) falls in a zone."""
    return datetime.fromtimestamp(moment, zone).date()


def start_of(day: date, zone: ZoneInfo) -> float:
    """Return the first moment of a day; where midnight is left out by a change of time, the moment of that change."""
    return datetime.combine(day, time(), zone).timestamp()


def first_day(period: Period, day: date) -> date:
    """Return the first day of the week (a Monday), month or year that a day lies in."""
    match period:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)


def following(period: Period, first: date, count: int) -> date:
    """Return the first day of the period that comes `count` periods after the one that begins on `first`."""
    match period:
        case "week":
            return first + timedelta(weeks=count)
        case "month":
            years, months = divmod(first.month - 1 + count, 12)
            return first.replace(year=first.year + years, month=months + 1)
        case "year":
            return first.replace(year=first.year + count)


def name_of(period: Period, first: date) -> str:
    """Return what people call it: 2026-W47 (ISO 8601), 2026-11, 2026."""
    match period:
        case "week":
            year, week, _ = first.isocalendar()
            return f"{year}-W{week:02}"
        case "month":
            return f"{first:%Y-%m}"
        case "year":
            return f"{first:%Y}"
