"""What the clock of this machine showed at the last session, and what that says of it now (DESIGN 13)."""

import time

from vbrcore.catalog.base import Rows
from vbrcore.chain.clock import ClockReading, clock_doubt

_NAME = "last"


def read_clock() -> ClockReading:
    """Read this machine's clock."""
    return ClockReading(time.time(), time.clock_gettime(time.CLOCK_BOOTTIME))


class ClockRows(Rows):
    """One row: the last reading that was trusted."""

    def clock_seen(self) -> ClockReading | None:
        row = self._database.row("SELECT seen, uptime_s FROM clock WHERE name = ?", (_NAME,))
        return None if row is None else ClockReading(row["seen"], row["uptime_s"])

    def clock_doubt(self, now: ClockReading, newest_point: float | None) -> str:
        """Return why the clock is not to be trusted ("": it is). `newest_point`: of before this session."""
        return clock_doubt(now, newest_point=newest_point, last=self.clock_seen())

    def set_clock_seen(self, clock: ClockReading) -> None:
        with self._database.write() as connection:
            sql = "INSERT OR REPLACE INTO clock (name, seen, uptime_s) VALUES (?, ?, ?)"
            connection.execute(sql, (_NAME, clock.time, clock.uptime_s))
