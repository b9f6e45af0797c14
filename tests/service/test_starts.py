"""What starts a job by itself, and what does not."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbrcore.model.errors import InvalidValue, SessionStopped, VbrError
from vbrcore.model.job import Schedule, Window
from vbrcore.model.session import Result, Session
from vbrcore.service.starts import Decision, Facts, Start, check_no_cycle, decide, next_start, retry_follows

NIGHT = Window("22:00", "06:00", "UTC")
DAY_S = 86400.0
NOON = 20_000 * DAY_S + 12 * 3600


def run(
    ended: float | None,
    result: Result = "success",
    *,
    manual: bool = False,
    stopped: bool = False,
    retry: int = 0,
    error: VbrError | None = None,
) -> Session:
    return Session(
        session_id="s",
        job_id="j",
        name="nightly",
        kind="backup",
        state="running" if ended is None else "ended",
        result="none" if ended is None else result,
        manual=manual,
        created=NOON - 1000,
        ended=ended,
        stop_requested="graceful" if stopped else "",
        request={"retry": retry} if retry else {},
        error=error.info() if error else None,
    )


# --- by the clock ---------------------------------------------------------------------------------


def test_what_is_due_starts_and_the_next_moment_is_noted() -> None:
    every = Facts(Schedule("every", every_s=3600), next_run=NOON)
    assert decide(every, NOON - 1) == Decision(None, NOON)
    assert decide(every, NOON + 1) == Decision(Start(NOON, "schedule"), NOON + 3600)


def test_many_missed_moments_are_made_up_for_once() -> None:
    every = Facts(Schedule("every", every_s=3600), next_run=NOON)
    done = decide(every, NOON + 10.5 * 3600)
    assert done == Decision(Start(NOON, "missed, made up for"), NOON + 11 * 3600)


def test_who_wants_no_missed_run_gets_none() -> None:
    every = Facts(Schedule("every", every_s=3600, catch_up=False), next_run=NOON)
    assert decide(every, NOON + 1800) == Decision(None, NOON + 3600)
    assert decide(every, NOON + 60).start is not None


def test_a_missed_run_waits_for_its_window() -> None:
    daily = Facts(Schedule("daily", "23:00", window=NIGHT), next_run=NOON - 13 * 3600)
    assert decide(daily, NOON) == Decision(None, NOON + 10 * 3600)
    opens = Facts(daily.schedule, next_run=NOON + 10 * 3600)
    assert decide(opens, NOON + 10 * 3600) == Decision(Start(NOON + 10 * 3600, "schedule"), NOON + 11 * 3600)


@settings(max_examples=100, deadline=None)
@given(st.floats(0, 100 * DAY_S), st.floats(0, 10 * DAY_S), st.booleans())
def test_a_moment_that_came_is_over(late_s: float, window_s: float, catch_up: bool) -> None:
    schedule = Schedule("every", every_s=900, window=NIGHT, catch_up=catch_up)
    now = NOON + late_s + window_s
    decision = decide(Facts(schedule, next_run=NOON + window_s), now)
    assert decision.next_run is not None
    assert decision.next_run > now
    assert decide(Facts(schedule, next_run=decision.next_run), now).start is None


# --- after another job, and again -----------------------------------------------------------------


def after(other: Session | None, own: Session | None = None, **fields: bool) -> Facts:
    schedule = Schedule("after", after="o", after_any=fields.pop("after_any", False), since=NOON - 5000)
    return Facts(schedule, own=own, other=other, other_name="nightly", **fields)


def test_a_job_follows_another_that_succeeded() -> None:
    for result in ("success", "warning"):
        assert next_start(after(run(NOON, result))) == Start(NOON, "after job nightly")
    assert next_start(after(run(NOON, "failed"))) is None
    assert next_start(after(run(NOON, "failed"), after_any=True)) is not None
    assert next_start(after(None)) is None


def test_a_job_follows_each_end_once_and_waits_for_retries() -> None:
    own = run(NOON + 10)
    assert next_start(after(run(own.created - 1), own)) is None
    assert next_start(after(run(own.created + 1), own)) is not None
    assert next_start(after(run(own.created + 1), run(None))) is None  # once it has ended
    assert next_start(after(run(NOON, "failed"), after_any=True, other_retried=True)) is None
    assert next_start(after(run(NOON - 6000))) is None  # before it was said to follow


def test_a_continuous_job_begins_again_until_it_is_stopped() -> None:
    schedule = Schedule("continuous", every_s=30, since=NOON - 5000)
    assert next_start(Facts(schedule)) == Start(NOON - 5000, "continuous")
    assert next_start(Facts(schedule, own=run(None))) is None
    assert next_start(Facts(schedule, own=run(NOON, "failed"))) == Start(NOON + 30, "continuous")
    stopped = run(NOON, "failed", stopped=True)
    assert next_start(Facts(schedule, own=stopped)) is None
    assert next_start(Facts(schedule, own=stopped, service_started=NOON + 5)) is not None


def test_a_job_cannot_follow_itself_by_any_way() -> None:
    followed = {"a": "b", "b": "c", "c": "", "x": "y", "y": "x"}
    check_no_cycle("c", "c", "x", followed)
    for wrong in ("c", "b", "a"):
        with pytest.raises(InvalidValue, match="cannot run after"):
            check_no_cycle("c", "c", wrong, followed)


# --- because it failed ----------------------------------------------------------------------------

RETRIED = Schedule("daily", "11:00", retries=2, retry_wait_s=60)


def test_a_failed_run_is_tried_again_so_often_and_no_more() -> None:
    first = Facts(RETRIED, next_run=NOON + DAY_S, own=run(NOON, "failed"))
    assert decide(first, NOON + 59).start is None
    assert decide(first, NOON + 60) == Decision(Start(NOON + 60, "retry 1 of 2", 1), NOON + DAY_S)
    second = Facts(RETRIED, own=run(NOON, "failed", retry=1))
    assert next_start(second) == Start(NOON + 60, "retry 2 of 2", 2)
    assert next_start(Facts(RETRIED, own=run(NOON, "failed", retry=2))) is None


def test_who_had_a_hand_in_it_is_not_gone_behind() -> None:
    assert retry_follows(RETRIED, run(NOON, "failed"))
    assert not retry_follows(RETRIED, run(NOON, "failed", error=SessionStopped("by a signal")))
    assert not retry_follows(RETRIED, run(NOON, "failed", stopped=True))
    assert not retry_follows(RETRIED, run(NOON, "failed", manual=True))
    assert not retry_follows(RETRIED, run(NOON, "warning"))
    assert not retry_follows(Schedule("none"), run(NOON, "failed"))
    windowed = Schedule("daily", "23:00", window=NIGHT)
    assert not retry_follows(windowed, run(NOON, "failed"))


def test_the_regular_run_goes_before_a_retry() -> None:
    facts = Facts(RETRIED, next_run=NOON + 30, own=run(NOON, "failed"))
    assert decide(facts, NOON + 61).start == Start(NOON + 30, "schedule")
