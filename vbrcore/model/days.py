"""Rules for days: on which days something is to happen, as administrators say it. Pure.

A rule is a list of days, divided by commas: a day of the week (`sat`), one of its days in the month (`first sat`,
`third mon`, `last sat`), or a day of the month (`1` to `31`; in a month that is shorter, its last day). Empty: never.
"""

from calendar import monthrange
from datetime import date, datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from vbrcore.model.errors import InvalidValue

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ORDINALS: Final = ("first", "second", "third", "fourth")
_WEEK_DAYS: Final = 7
_LONGEST_MONTH_DAYS: Final = 31


def check_days(rule: str) -> None:
    """Raise `InvalidValue` for what is no rule."""
    for part in _parts(rule):
        _matches(part, date(2000, 1, 1))


def is_day(rule: str, day: date) -> bool:
    """Return whether the rule names this day."""
    return any(_matches(part, day) for part in _parts(rule))


def latest_day(rule: str, day: date) -> date | None:
    """Return the last day up to `day` that the rule names; None: it never names one."""
    if not rule:
        return None
    while not is_day(rule, day):
        day -= timedelta(days=1)
    return day


def last_begun(rule: str, now: float, zone: "ZoneInfo") -> float:
    """Return when the last day of the rule began, in seconds since the epoch; 0: never."""
    day = latest_day(rule, datetime.fromtimestamp(now, zone).date())
    return 0.0 if day is None else datetime.combine(day, time(), zone).timestamp()


def is_due(rule: str, since: float | None, now: float, zone: "ZoneInfo") -> bool:
    """Return whether a day of the rule has begun after `since` (seconds since the epoch; None: never happened).

    However many such days were missed, it is due once.
    """
    begun = last_begun(rule, now, zone)
    return begun > 0 and (since is None or since < begun)


def _parts(rule: str) -> list[str]:
    return [" ".join(part.lower().split()) for part in rule.split(",")] if rule else []


def _matches(part: str, day: date) -> bool:
    last_of_month = monthrange(day.year, day.month)[1]
    match part.split(" "):
        case [number] if number.isdecimal() and 1 <= int(number) <= _LONGEST_MONTH_DAYS:
            return day.day == min(int(number), last_of_month)
        case [name] if name in WEEKDAYS:
            return day.weekday() == WEEKDAYS.index(name)
        case ["last", name] if name in WEEKDAYS:
            return day.weekday() == WEEKDAYS.index(name) and day.day > last_of_month - _WEEK_DAYS
        case [ordinal, name] if ordinal in _ORDINALS and name in WEEKDAYS:
            week = _ORDINALS.index(ordinal)
            return day.weekday() == WEEKDAYS.index(name) and (day.day - 1) // _WEEK_DAYS == week
    raise InvalidValue(f"{part!r} names no day: give e.g. sat, 'last sat' or 1, several divided by commas")
