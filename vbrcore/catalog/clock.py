"""What the clock of this machine showed at the last session."""

import msgspec

from vbrcore.catalog.base import Rows

_NAME = "last"


class ClockSeen(msgspec.Struct, frozen=True):
    """`seen`: seconds since the epoch. `uptime_s`: since the machine was started, with time spent asleep."""

    seen: float
    uptime_s: float


class ClockRows(Rows):
    """One row: rules that look at the clock compare it with this (DESIGN 13)."""

    def clock_seen(self) -> ClockSeen | None:
        row = self._database.row("SELECT seen, uptime_s FROM clock WHERE name = ?", (_NAME,))
        return None if row is None else ClockSeen(row["seen"], row["uptime_s"])

    def set_clock_seen(self, clock: ClockSeen) -> None:
        with self._database.write() as connection:
            sql = "INSERT OR REPLACE INTO clock (name, seen, uptime_s) VALUES (?, ?, ?)"
            connection.execute(sql, (_NAME, clock.seen, clock.uptime_s))
