"""What a job keeps: how many points, for how long, and in whose days that is counted."""

from typing import TYPE_CHECKING, Final

import msgspec

from vbrcore.model.errors import InvalidValue
from vbrcore.model.zones import zone_named

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

# So many of the newest points of each machine stay whatever the rules say.
MINIMUM_POINTS: Final = 3

# The bit of a point's `flags` that says: kept by hand, never evicted by policy.
KEPT_BY_HAND: Final = 1

# A hundred years of each: beyond that a number is a mistake, and calendars end.
_HIGHEST: Final = {
    "keep_points": 100_000,
    "keep_days": 36_500,
    "keep_weekly": 5_200,
    "keep_monthly": 1_200,
    "keep_yearly": 100,
    "deleted_after_days": 36_500,
}


class Retention(msgspec.Struct, frozen=True):
    """A point that any rule keeps stays; each rule looks at one machine at a time, and 0 turns it off.

    `keep_points`: the newest ones. `keep_days`: all of today and of the days before it, so many in all.
    `keep_weekly`, `keep_monthly`, `keep_yearly`: the newest point of each of the last so many weeks (from Monday),
    months and years that have one. `deleted_after_days`: a machine that the inventory no longer has loses all its
    points when the newest of them is older than so many days. `time_zone` is an IANA name.
    """

    keep_points: int = 14
    keep_days: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0
    deleted_after_days: int = 0
    time_zone: str = "UTC"

    @property
    def by_period(self) -> bool:
        return bool(self.keep_weekly or self.keep_monthly or self.keep_yearly)

    @property
    def by_clock(self) -> bool:
        """Whether any rule needs to know what time it is."""
        return self.by_period or bool(self.keep_days or self.deleted_after_days)


def check(retention: Retention) -> None:
    """Raise `InvalidValue` for a number out of range or a time zone that does not exist."""
    for name, highest in _HIGHEST.items():
        value = getattr(retention, name)
        if not 0 <= value <= highest:
            raise InvalidValue(f"{name} is {value}: give 1 to {highest}, or 0 to turn this rule off")
    zone_of(retention)


def zone_of(retention: Retention) -> "ZoneInfo":
    """Return the zone in which days are counted. Raises `InvalidValue`."""
    return zone_named(retention.time_zone)
