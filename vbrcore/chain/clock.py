"""What the times of points, and the clock of now, are worth. Times are seconds since the epoch; None: no time."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

import msgspec

# How far the clock may be ahead of what is expected before rules that look at it wait.
CLOCK_AHEAD_S: Final = 24 * 3600.0


class ClockReading(msgspec.Struct, frozen=True):
    """What a machine's clock shows, and for how long it has been up, with time spent asleep."""

    time: float
    uptime_s: float


def clock_doubt(now: ClockReading, *, newest_point: float | None, last: ClockReading | None) -> str:
    """Return why the clock is not to be trusted until an administrator confirms it ("": it is trusted).

    `newest_point`: the time of the newest point that was there before this session. `last`: the reading at the last
    session. None: not known. An uptime below the last one is that of a machine that was started since: it is then all
    that is known to have passed, so that one that was off for more than a day waits as well; a jump looks the same.
    """
    shown = f"the clock shows {_utc(now.time)}"
    if newest_point is not None and now.time < newest_point:
        return f"{shown}, which is before the newest point ({_utc(newest_point)})"
    if last is None:
        return ""
    passed_s = now.uptime_s - last.uptime_s if now.uptime_s >= last.uptime_s else now.uptime_s
    expected = last.time + passed_s
    if now.time <= expected + CLOCK_AHEAD_S:
        return ""
    return (
        f"{shown}, more than 24 hours ahead of {_utc(expected)}: "
        f"the last session's {_utc(last.time)} and the uptime since"
    )


def moments_of(times: Sequence[float | None]) -> list[float | None]:
    """Return for each point when it was made at the latest that its time and its place in the order allow.

    A point is not older than those before it; one without a time is not newer than the next one that has a time.
    """
    latest = float("-inf")
    found: list[float | None] = []
    for time in times:
        latest = latest if time is None else max(latest, time)
        found.append(None if time is None else latest)
    after = None
    for index in reversed(range(len(found))):
        if found[index] is None:
            found[index] = after
        after = found[index]
    return found


def contradicting(times: Sequence[float | None]) -> list[list[int]]:
    """Return for each point which ones show that its time is out of order: an earlier one that claims to be the
    newer, a later one that claims to be the older. Of each kind the one that claims most.
    """
    found: list[list[int]] = [[] for _ in times]
    for indexes, sign in ((range(len(times)), 1), (reversed(range(len(times))), -1)):
        most, holder = float("-inf"), -1
        for index in indexes:
            time = times[index]
            if time is None:
                continue
            if sign * time < most:
                found[index].append(holder)
            else:
                most, holder = sign * time, index
    return found


def _utc(moment: float) -> str:
    try:
        return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M} UTC"
    except (ValueError, OverflowError, OSError):  # what a file claims may be no date at all
        return f"{moment:g} s after 1970"
