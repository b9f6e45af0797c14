"""Whether, when and why a job is started by itself: by the clock, after another job, again, or because it failed. Pure.

What is known of a job is its schedule, the moment that the catalog has noted for it, and how its last runs ended.
Everything else follows from that, so a service that was away knows what it missed.
"""

from collections.abc import Mapping

import msgspec

from vbrcore.model.errors import InvalidValue, SessionStopped
from vbrcore.model.job import Schedule
from vbrcore.model.session import Session
from vbrcore.model.window import is_open, opening
from vbrcore.model.zones import zone_named
from vbrcore.service.schedule import following_run

MISSED_S = 300.0  # what is later than that was missed: the service was away, or the machine slept


class Facts(msgspec.Struct, frozen=True):
    """`next_run`: as noted, of kinds that go by the clock. `own`: the job's newest run; `lives`: it has not ended.

    `other`: the newest ended run of the job that it follows, named `other_name`; `other_retried`: it will be run again.
    `service_started`: seconds since the epoch.
    """

    schedule: Schedule
    next_run: float | None = None
    own: Session | None = None
    other: Session | None = None
    other_name: str = ""
    other_retried: bool = False
    service_started: float = 0.0

    @property
    def lives(self) -> bool:
        return self.own is not None and self.own.ended is None


class Start(msgspec.Struct, frozen=True):
    """A start that is due at `at`, and why, for people. `retry`: its number, from 1; 0: it is none."""

    at: float
    why: str
    retry: int = 0


class Decision(msgspec.Struct, frozen=True):
    """What to do now: start it or not, and the moment to note for the next time."""

    start: Start | None
    next_run: float | None


def next_start(facts: Facts) -> Start | None:
    """Return what the job waits for next; None: nothing that can be foreseen."""
    if facts.lives:
        return _by_clock(facts)
    found = (_by_clock(facts), _after_other(facts), _again(facts), _retry(facts))
    return min((start for start in found if start is not None), key=lambda start: start.at, default=None)


def decide(facts: Facts, now: float) -> Decision:
    """Decide what is done at `now`. A moment of the clock that has come is noted as done, whatever comes of it."""
    schedule, next_run = facts.schedule, facts.next_run
    if next_run is not None and next_run <= now:
        return _clock_struck(schedule, next_run, now)
    start = next_start(facts)
    if start is None or start.at > now or not _window_open(schedule, now):
        return Decision(None, next_run)
    if now - start.at > MISSED_S and not schedule.catch_up:
        return Decision(None, next_run)
    return Decision(start, next_run)


def retry_number(session: Session) -> int:
    """Return the number of the retry that a session is; 0: it is none."""
    number = session.request.get("retry", 0)
    return number if isinstance(number, int) else 0


def retry_follows(schedule: Schedule, own: Session) -> bool:
    """Return whether a run that has ended is run again for having failed: never where somebody had a hand in it.

    Whatever it failed by: what does not mend by itself may be mended meanwhile.
    """
    if own.ended is None or own.result != "failed" or own.manual or _was_stopped(own):
        return False
    due = own.ended + schedule.retry_wait_s
    in_time = retry_number(own) < schedule.session_retries and own.ended >= schedule.since
    return in_time and _window_open(schedule, due)


def check_no_cycle(job_id: str, name: str, after: str, followed: Mapping[str, str]) -> None:
    """Raise `InvalidValue` where a job would follow itself. `followed`: whom each job follows; "": nobody."""
    seen = set[str]()
    while after and after not in seen:
        if after == job_id:
            raise InvalidValue(f"job {name} cannot run after a job that itself runs after {name}")
        seen.add(after)
        after = followed.get(after, "")


def _clock_struck(schedule: Schedule, due: float, now: float) -> Decision:
    missed = now - due > MISSED_S
    following = following_run(schedule, due, now)
    if missed and not schedule.catch_up:
        return Decision(None, following)
    if not _window_open(schedule, now):
        waits = opening(schedule.window, now, zone_named(schedule.window.zone))
        return Decision(None, waits if following is None else min(waits, following))
    return Decision(Start(due, "missed, made up for" if missed else "schedule"), following)


def _by_clock(facts: Facts) -> Start | None:
    return None if facts.next_run is None else Start(facts.next_run, "schedule")


def _after_other(facts: Facts) -> Start | None:
    """The other's end counts once: until a run of ours began after it."""
    schedule, other = facts.schedule, facts.other
    if schedule.kind != "after" or other is None or other.ended is None or other.ended < schedule.since:
        return None
    if facts.other_retried or not (schedule.after_any or other.result in {"success", "warning"}):
        return None
    if facts.own is not None and facts.own.created >= other.ended:
        return None
    return Start(_in_window(schedule, other.ended), f"after job {facts.other_name}")


def _again(facts: Facts) -> Start | None:
    """Whoever stopped a continuous job wants it to rest: until it is run or scheduled, or the service starts anew."""
    schedule, own = facts.schedule, facts.own
    if schedule.kind != "continuous":
        return None
    if own is None or own.ended is None or own.ended < schedule.since:
        return Start(_in_window(schedule, schedule.since), "continuous")
    if _was_stopped(own) and own.ended >= facts.service_started:
        return None
    return Start(_in_window(schedule, own.ended + schedule.every_s), "continuous")


def _retry(facts: Facts) -> Start | None:
    schedule, own = facts.schedule, facts.own
    if own is None or own.ended is None or not retry_follows(schedule, own):
        return None
    number = retry_number(own) + 1
    return Start(own.ended + schedule.retry_wait_s, f"retry {number} of {schedule.session_retries}", number)


def _was_stopped(session: Session) -> bool:
    """A session can also be stopped by a signal to its manager."""
    by_signal = session.error is not None and session.error.code == SessionStopped.code
    return bool(session.stop_requested) or by_signal


def _window_open(schedule: Schedule, at: float) -> bool:
    return is_open(schedule.window, at, zone_named(schedule.window.zone))


def _in_window(schedule: Schedule, at: float) -> float:
    return opening(schedule.window, at, zone_named(schedule.window.zone))
