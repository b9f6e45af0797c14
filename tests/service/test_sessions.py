"""Sessions and their managers, with the real ones: waiting, dying, stopping, and a service that dies meanwhile."""

import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from tests.service.conftest import Holder, wait_for
from vbrcore.api import operations as ops
from vbrcore.api import types as t
from vbrcore.api.client import Client
from vbrcore.catalog.catalog import Catalog
from vbrcore.catalog.processes import process_started
from vbrcore.model.errors import JobAlreadyRunning, OutputRefused, ServiceStopping
from vbrcore.model.job import Schedule

NOTHING = t.Nothing()


def run(client: Client, name: str = "nightly") -> str:
    return client.call(ops.JOB_RUN, t.ByName(name)).session_id


def show(client: Client, session_id: str) -> t.SessionView:
    return client.call(ops.SESSION_SHOW, t.ByName(session_id))


def wait_until_ended(client: Client, session_id: str) -> t.SessionView:
    wait_for(lambda: show(client, session_id).state == "ended", "the session's end")
    return show(client, session_id)


def wait_until_waiting(client: Client, session_id: str) -> None:
    wait_for(
        lambda: any(task.reason == "host_budget_used" for task in show(client, session_id).tasks),
        "a task that waits for the host budget",
    )


def manager_pid(catalog: Catalog, session_id: str) -> int:
    wait_for(lambda: catalog.session(session_id).state != "starting", "the manager's begin")
    return catalog.session(session_id).pid


def log_lines(client: Client, session_id: str) -> list[str]:
    chunk = client.call(ops.SESSION_LOG, t.LogQuery(session_id))
    last = client.call(ops.SESSION_LOG, t.LogQuery(session_id, chunk.next_offset))
    assert (last.lines, last.ended) == ((), True)
    return list(chunk.lines)


@pytest.mark.usefixtures("job")
def test_a_job_runs_and_leaves_a_point(client: Client, catalog: Catalog) -> None:
    session_id = run(client)
    view = wait_until_ended(client, session_id)
    assert (view.result, view.error) == ("success", None)
    assert view.totals.read_bytes >= 3_000_000
    (job,) = client.call(ops.JOB_LIST, NOTHING)
    assert (job.last_result, job.running) == ("success", None)
    (point,) = client.call(ops.POINT_LIST, t.PointQuery(job="nightly"))
    assert client.call(ops.POINT_SHOW, t.ByName(point.point_id)) == point
    assert (point.machine, point.kind, point.job) == ("m1", "full", "nightly")
    assert "Job has been stopped successfully. Name: [nightly]" in log_lines(client, session_id)[-1]
    wait_for(lambda: not catalog.holders(), "the leases' end")
    assert not catalog.usage()
    (listed,) = client.call(ops.SESSION_LIST, t.SessionQuery(job="nightly"))
    assert listed.session_id == session_id


@pytest.mark.usefixtures("job")
def test_tasks_wait_with_a_reason_until_there_is_room(client: Client, holder: Holder) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    (live,) = [view for view in client.call(ops.SESSIONS_LIVE, NOTHING) if view.session_id == session_id]
    task = next(task for task in live.tasks if task.reason)
    assert (task.disk, task.place) == ("disk.raw", 1)
    assert "server local: " in task.detail
    processes = client.call(ops.PROCESS_LIST, NOTHING)
    kinds = {process.kind: process for process in processes}
    assert kinds["job-manager"].session_id == session_id
    assert kinds["job-manager"].parent_pid == kinds["service"].pid
    with pytest.raises(JobAlreadyRunning, match=session_id):
        run(client)
    holder.end()
    assert wait_until_ended(client, session_id).result == "success"


@pytest.mark.usefixtures("job", "holder")
def test_a_stopped_session_ends_truthfully(client: Client) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    client.call(ops.JOB_STOP, t.JobStop("nightly"))
    view = wait_until_ended(client, session_id)
    assert view.result == "failed"
    assert view.error is not None
    assert view.error.code == "session_stopped"


@pytest.mark.usefixtures("job")
def test_a_killed_manager_is_noticed_and_its_leases_are_free(client: Client, catalog: Catalog, holder: Holder) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    os.kill(manager_pid(catalog, session_id), signal.SIGKILL)
    view = wait_until_ended(client, session_id)
    assert view.result == "failed"
    assert view.error is not None
    assert view.error.code == "manager_lost"
    assert {task.state for task in view.tasks} <= {"failed", "done"}
    assert "Job has stopped with failures. Name: [nightly]" in log_lines(client, session_id)[-1]
    wait_for(lambda: session_id not in catalog.holders(), "the end of the dead session's lease")
    assert not any(name.startswith("chain:") for name in catalog.usage())
    holder.end()
    assert wait_until_ended(client, run(client)).result == "success"


@pytest.mark.usefixtures("job")
def test_a_killed_service_leaves_sessions_running_and_its_successor_takes_them_over(
    client: Client, catalog: Catalog, holder: Holder
) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    manager = manager_pid(catalog, session_id)
    service = client.call(ops.SERVICE_SHOW, NOTHING).pid
    os.kill(service, signal.SIGKILL)
    assert client.call(ops.SERVICE_SHOW, NOTHING).pid != service
    assert show(client, session_id).state != "ended"
    assert manager in {process.pid for process in client.call(ops.PROCESS_LIST, NOTHING)}
    holder.end()
    assert wait_until_ended(client, session_id).result == "success"


@pytest.mark.usefixtures("job", "holder")
def test_sessions_that_died_with_the_service_are_ended_by_the_next(client: Client, catalog: Catalog) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    os.kill(client.call(ops.SERVICE_SHOW, NOTHING).pid, signal.SIGKILL)
    os.kill(manager_pid(catalog, session_id), signal.SIGKILL)
    # The first question that is no mere look waits until all is in order again.
    (job,) = client.call(ops.JOB_LIST, NOTHING)
    assert (job.last_result, job.running) == ("failed", None)


@pytest.mark.usefixtures("job", "holder")
def test_a_manager_that_hangs_longer_than_its_lease_is_killed(client: Client, catalog: Catalog) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    pid = manager_pid(catalog, session_id)
    os.kill(pid, signal.SIGSTOP)
    with catalog._database.write() as connection:
        connection.execute("UPDATE holders SET expires = 0 WHERE session_id = ?", (session_id,))
    view = wait_until_ended(client, session_id)
    assert view.error is not None
    assert view.error.code == "lease_lost"
    assert session_id not in catalog.holders()
    wait_for(lambda: pid not in {one.pid for one in client.call(ops.PROCESS_LIST, NOTHING)}, "the manager's end")


@pytest.mark.usefixtures("job", "holder")
def test_stopping_the_service_stops_its_sessions_first(client: Client, catalog: Catalog, home: Path) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    holder = catalog.session("holder")
    os.kill(holder.pid, signal.SIGKILL)  # it heeds no request; its end is noticed
    client.call(ops.SERVICE_STOP, t.ServiceStop())
    assert catalog.session(session_id).state == "ended"
    assert catalog.session("holder").state == "ended"
    wait_for(lambda: not (home / "run" / "service.sock").exists(), "the service's end")


@pytest.mark.usefixtures("job", "holder")
def test_nothing_begins_while_the_service_stops(client: Client, home: Path, catalog: Catalog) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)

    def stop() -> None:
        with Client(home) as other:
            other.call(ops.SERVICE_STOP, t.ServiceStop())

    stopping = threading.Thread(target=stop)
    stopping.start()
    wait_for(lambda: catalog.stop_requested("holder") != "", "the request to stop")
    wait_until_ended(client, session_id)
    with Client(home, start=False) as other, pytest.raises(ServiceStopping):
        other.call(ops.JOB_RUN, t.ByName("nightly"))
    os.kill(catalog.session("holder").pid, signal.SIGKILL)
    stopping.join()


@pytest.mark.usefixtures("job")
def test_a_clean_up_runs_for_what_a_dead_session_left(client: Client, catalog: Catalog) -> None:
    hypervisor = catalog.hypervisor_by_name("lab")
    with catalog._database.write() as connection:
        connection.execute(
            "INSERT INTO journal (session_id, hypervisor_id, action, payload, created) VALUES (?, ?, ?, ?, ?)",
            ("dead", hypervisor.hypervisor_id, "snapshot", b"\xc1 cannot be read", time.time()),
        )

    def cleanups() -> list[t.SessionView]:
        found = client.call(ops.SESSION_LIST, t.SessionQuery())
        return [view for view in found if view.kind == "cleanup" and view.state == "ended"]

    wait_for(lambda: bool(cleanups()), "a clean-up")
    # One that cannot undo it keeps nobody waiting for long.
    assert wait_until_ended(client, run(client)).result == "success"


def test_a_job_that_was_due_while_nobody_looked_runs_once(client: Client, job: t.JobView, catalog: Catalog) -> None:
    client.call(ops.JOB_SCHEDULE, t.JobSchedule(job.name, Schedule("every", "", 3600)))
    catalog.set_schedule(job.job_id, catalog.job(job.job_id).schedule, time.time() - 100_000)
    wait_for(lambda: len(client.call(ops.SESSION_LIST, t.SessionQuery())) == 1, "the scheduled session")
    (view,) = client.call(ops.SESSION_LIST, t.SessionQuery())
    assert wait_until_ended(client, view.session_id).result == "success"
    assert not catalog.session(view.session_id).manual
    assert catalog.next_runs()[job.job_id] > time.time()
    assert len(client.call(ops.SESSION_LIST, t.SessionQuery())) == 1


@pytest.mark.usefixtures("job")
def test_restores_are_checked_before_a_session_begins(client: Client, home: Path) -> None:
    wait_until_ended(client, run(client))
    (point,) = client.call(ops.POINT_LIST, t.PointQuery())
    wanted = t.RestoreDisk(point.point_id, "disk.raw", output=str(home / "machines" / "m1" / "disk.raw"))
    with pytest.raises(OutputRefused, match="overwrites"):
        client.call(ops.RESTORE_DISK, wanted)
    output = home / "restored.raw"
    wanted = msgspec.structs.replace(wanted, output=str(output))
    started = client.call(ops.RESTORE_DISK, wanted)
    assert wait_until_ended(client, started.session_id).result == "success"
    assert output.read_bytes() == b"\1" * 3_000_000


@pytest.mark.usefixtures("job")
def test_a_job_is_deleted_with_its_backups_when_that_is_confirmed(client: Client, home: Path) -> None:
    wait_until_ended(client, run(client))
    assert list((home / "backup").rglob("*.vbf"))
    client.call(ops.JOB_DELETE, t.Remove("nightly", with_backups=True, confirm="nightly"))
    assert not list((home / "backup").rglob("*.vbf"))
    assert client.call(ops.POINT_LIST, t.PointQuery()) == ()


@pytest.mark.usefixtures("job", "holder")
def test_a_manager_that_hangs_is_ended_when_it_must_stop_now(client: Client, catalog: Catalog) -> None:
    session_id = run(client)
    wait_until_waiting(client, session_id)
    pid = manager_pid(catalog, session_id)
    os.kill(pid, signal.SIGSTOP)
    client.call(ops.JOB_STOP, t.JobStop("nightly", now=True))
    view = wait_until_ended(client, session_id)
    assert view.error is not None
    assert (view.error.code, view.result) == ("manager_lost", "failed")
    assert "did not react" in view.error.message
    assert process_started(pid) is None
    wait_for(lambda: session_id not in catalog.holders(), "the end of its lease, which has not run out")
