"""Jobs that run by themselves, by a real service."""

import os
import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.service.conftest import Holder, wait_for
from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import InUse, InvalidValue, NotFound
from vbrcore.model.job import Schedule, Window
from vbrcore.model.session import Session

WEEK_S = 7 * 86400


def runs(catalog: Catalog, job: t.JobView) -> list[Session]:
    """Return a job's ended runs, oldest first."""
    found = catalog.sessions(job_id=job.job_id)
    return [session for session in reversed(found) if session.kind == "backup" and session.state == "ended"]


def schedule(client: Client, job: t.JobView, what: Schedule) -> t.JobView:
    return client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, what))


def test_a_retry_backs_up_only_what_failed(client: Client, catalog: Catalog, job: t.JobView, home: Path) -> None:
    broken = home / "machines" / "m2" / "disk.qcow2"
    broken.parent.mkdir()
    broken.write_bytes(b"QFI\xfb" + bytes(600))
    schedule(client, job, Schedule("every", every_s=WEEK_S, retries=3, retry_wait_s=1))
    catalog.set_schedule(job.job_id, catalog.job(job.job_id).schedule, time.time())
    wait_for(lambda: len(runs(catalog, job)) == 4, "the retries", patience_s=100)
    first, *retries = runs(catalog, job)
    assert {task.machine for task in catalog.tasks(first.session_id)} == {"m1", "m2"}
    assert first.result == "failed"
    before = first
    for number, retry in enumerate(retries, 1):
        assert {task.machine for task in catalog.tasks(retry.session_id)} == {"m2"}
        assert (retry.result, retry.manual, retry.request["retry"]) == ("failed", False, number)
        assert before.ended is not None
        assert retry.created >= before.ended + 1
        before = retry
    # Three retries were asked for, and there are three.
    view = client.call(ops.JOB_SHOW, t.ByName(job.name))
    assert (view.next_reason, view.running) == ("schedule", None)
    assert [stored.point.session_id for stored in catalog.points(job.job_id)] == [first.session_id]


def test_a_hypervisor_that_comes_back_is_backed_up_by_a_retry(
    client: Client, catalog: Catalog, job: t.JobView, home: Path
) -> None:
    schedule(client, job, Schedule("every", every_s=WEEK_S, retries=20, retry_wait_s=1))
    (home / "machines").rename(home / "away")
    catalog.set_schedule(job.job_id, catalog.job(job.job_id).schedule, time.time())
    wait_for(lambda: bool(runs(catalog, job)), "the first run")
    (home / "away").rename(home / "machines")
    wait_for(lambda: runs(catalog, job)[-1].result == "success", "a retry that succeeds")
    assert runs(catalog, job)[0].result == "failed"


def test_a_job_runs_after_another_and_may_not_follow_itself(client: Client, catalog: Catalog, job: t.JobView) -> None:
    second = client.call(ops.JOB_CREATE, t.JobCreate("second", "lab", "main", ("*",)))
    third = client.call(ops.JOB_CREATE, t.JobCreate("third", "lab", "main", ("*",)))
    schedule(client, third, Schedule("after", after="second"))
    view = schedule(client, second, Schedule("after", after=job.name))
    assert (view.schedule.after, view.next_run, view.next_reason) == (job.name, None, "after job nightly")
    with pytest.raises(InvalidValue, match="cannot run after"):
        schedule(client, job, Schedule("after", after="second"))
    with pytest.raises(NotFound):
        schedule(client, job, Schedule("after", after="nobody"))
    with pytest.raises(InUse, match="second"):
        client.call(ops.JOB_DELETE, t.Remove(job.name))
    client.call(ops.JOB_RUN, t.ByName(job.name))
    wait_for(lambda: len(runs(catalog, second)) == 1, "the run that follows")
    wait_for(lambda: len(runs(catalog, third)) == 1, "the run that follows the one that followed")
    (first,), (after,), (last,) = (runs(catalog, one) for one in (job, second, third))
    assert first.ended is not None
    assert after.ended is not None
    assert first.ended < after.created < after.ended < last.created
    assert (after.manual, last.manual) == (False, False)


def test_what_a_service_missed_runs_once_and_only_where_it_is_wanted(
    client: Client, catalog: Catalog, job: t.JobView
) -> None:
    unwanted = client.call(ops.JOB_CREATE, t.JobCreate("unwanted", "lab", "main", ("*",)))
    schedule(client, job, Schedule("every", every_s=3600))
    schedule(client, unwanted, Schedule("every", every_s=3600, catch_up=False))
    os.kill(client.call(ops.SERVICE_SHOW, t.Nothing()).pid, signal.SIGKILL)
    due = time.time() - 36_000
    for one in (job, unwanted):
        catalog.set_schedule(one.job_id, catalog.job(one.job_id).schedule, due)
    client.call(ops.SERVICE_SHOW, t.Nothing())  # starts the next one
    wait_for(lambda: len(runs(catalog, job)) == 1, "the run that was missed")
    wait_for(lambda: catalog.next_runs()[unwanted.job_id] > due, "the moment that was passed over")
    os.kill(client.call(ops.SERVICE_SHOW, t.Nothing()).pid, signal.SIGKILL)
    client.call(ops.SERVICE_SHOW, t.Nothing())
    client.call(ops.JOB_RUN, t.ByName(unwanted.name))
    wait_for(lambda: len(runs(catalog, unwanted)) == 1, "a run by hand")
    (missed,), (by_hand,) = runs(catalog, job), runs(catalog, unwanted)
    assert (missed.result, missed.manual, by_hand.manual) == ("success", False, True)
    for one in (job, unwanted):  # eleven hours later the beat is the same
        assert catalog.next_runs()[one.job_id] == pytest.approx(due + 11 * 3600)


def test_a_continuous_job_rests_when_it_was_stopped(client: Client, catalog: Catalog, job: t.JobView) -> None:
    catalog.update_job(job.job_id, schedule=Schedule("continuous", every_s=0, since=time.time()))
    wait_for(lambda: len(runs(catalog, job)) >= 2, "a second run")

    def stopped() -> bool:
        live = catalog.live_session_of(job.job_id)
        if live is not None:
            catalog.request_stop(live.session_id, now=True)
        return any(one.stop_requested for one in runs(catalog, job))

    wait_for(stopped, "a run that was stopped")
    view = client.call(ops.JOB_SHOW, t.ByName(job.name))
    assert (view.running, view.next_run, view.next_reason) == (None, None, "continuous")


def test_the_next_moments_can_be_seen(client: Client, job: t.JobView) -> None:
    view = schedule(client, job, Schedule("days", "02:30", zone="Europe/Berlin", days="last sun"))
    assert view.next_reason == "schedule"
    moments = client.call(ops.SCHEDULE_PREVIEW, t.SchedulePreview(job.name, 12))
    assert len(moments) == 12
    assert moments[0].at == view.next_run
    # The last Sundays of March leave 02:30 out.
    assert {one.local[11:16] for one in moments if one.local[5:7] == "03"} == {"03:00"}
    assert {one.local[11:16] for one in moments if one.local[5:7] != "03"} == {"02:30"}
    for wrong in (0, 1001):
        with pytest.raises(InvalidValue, match="count"):
            client.call(ops.SCHEDULE_PREVIEW, t.SchedulePreview(job.name, wrong))


def test_a_priority_stays_until_another_is_given(client: Client, job: t.JobView) -> None:
    assert job.priority == "regular"
    view = client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, Schedule(), "high"))
    assert view.priority == "high"
    assert schedule(client, job, Schedule("daily", "22:00")).priority == "high"


def test_machines_that_still_wait_when_the_window_ends_are_not_started(
    client: Client, catalog: Catalog, job: t.JobView, holder: Holder
) -> None:
    left_s = 60 - time.time() % 60
    if left_s < 10:  # a window ends with a minute, and the job must have begun before
        time.sleep(left_s + 0.1)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    window = Window((soon - timedelta(hours=2)).strftime("%H:%M"), soon.strftime("%H:%M"))
    schedule(client, job, Schedule("every", every_s=3600, window=window, retry_wait_s=1))
    catalog.set_schedule(job.job_id, catalog.job(job.job_id).schedule, time.time())

    def waits() -> bool:
        live = catalog.live_session_of(job.job_id)
        return live is not None and any(one.reason == "host_budget_used" for one in catalog.waiting(live.session_id))

    wait_for(waits, "a machine that waits")
    assert catalog.renew("holder")  # its lease ends after the window
    (live,) = [session for session in catalog.live_sessions() if session.job_id == job.job_id]
    skipped = {("skipped", "outside_window")}

    def states() -> set[tuple[str, str]]:
        return {(task.state, task.reason) for task in catalog.tasks(live.session_id)}

    wait_for(lambda: states() == skipped, "the end of the window", patience_s=100)
    holder.end()  # upkeep has a window of its own, and waits for a slot
    wait_for(lambda: bool(runs(catalog, job)), "the end of the session")
    (session,) = runs(catalog, job)
    assert session.result == "failed"
    assert session.error is not None
    assert session.error.code == "outside_window"
    assert states() == skipped
    # By hand it runs at any time.
    client.call(ops.JOB_RUN, t.ByName(job.name))
    wait_for(lambda: runs(catalog, job)[-1].result == "success", "a run by hand")
    assert not [one for one in runs(catalog, job) if one.request]  # nothing was retried outside the window
