"""What goes in comes out, and what must not go in does not."""

import functools
import sqlite3
from pathlib import Path

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.model.errors import (
    AlreadyExists,
    CatalogDamaged,
    CatalogNewer,
    InUse,
    JobAlreadyRunning,
    LeaseLost,
    NotFound,
)
from vbrcore.model.inventory import Credential, Hypervisor, Repository, Server
from vbrcore.model.job import Job, Schedule
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.session import Session, Task, TaskNeeds, Totals
from vbrcore.secrets.secret import Secret

HYPERVISOR = Hypervisor("h1", "lab", "images", {"path": "/x"}, ("password",), "local")
REPOSITORY = Repository("r1", "main", "local", "/backup", 2)
JOB = Job("j1", "nightly", "h1", "r1", ("*", "web-1"), ("test",), quiesce=True)
SESSION = Session("s1", "j1", "nightly", "backup", "starting", "none", True, 10.0, request={"a": [1, "x"]})


def test_inventory(catalog: Catalog) -> None:
    server = Server("v1", "local", ("proxy", "repository"), 2, 4)
    catalog.add_hypervisor(HYPERVISOR, {"password": Secret("geheim")})
    catalog.add_repository(REPOSITORY)
    catalog.add_server(server)
    catalog.add_credential(Credential("c1", "vc", "admin"), Secret("pw"))
    assert catalog.hypervisor("h1") == catalog.hypervisor_by_name("lab") == HYPERVISOR
    assert catalog.hypervisor_secrets(HYPERVISOR) == {"password": "geheim"}
    assert catalog.repositories() == (REPOSITORY,)
    assert catalog.servers() == (server,)
    assert catalog.credential_password(catalog.credential_by_name("vc")) == Secret("pw")
    with pytest.raises(AlreadyExists, match="hypervisor lab"):
        catalog.add_hypervisor(Hypervisor("h2", "lab", "images", {}), {})
    with pytest.raises(NotFound, match="no hypervisor nope"):
        catalog.hypervisor_by_name("nope")


def test_nothing_secret_stands_in_the_file(catalog: Catalog, tmp_path: Path) -> None:
    catalog.add_hypervisor(HYPERVISOR, {"password": Secret("Kennwort1234")})
    catalog.close()
    for file in tmp_path.glob("catalog.db*"):
        assert b"Kennwort1234" not in file.read_bytes()
        assert file.stat().st_mode & 0o077 == 0


def test_what_is_used_cannot_be_removed(catalog: Catalog) -> None:
    catalog.add_hypervisor(HYPERVISOR, {"password": Secret("x")})
    catalog.add_repository(REPOSITORY)
    catalog.add_job(JOB)
    with pytest.raises(InUse):
        catalog.remove_hypervisor("h1")
    with pytest.raises(InUse):
        catalog.remove_repository("r1")
    catalog.remove_job("j1")
    catalog.remove_hypervisor("h1")
    catalog.remove_repository("r1")
    assert (catalog.hypervisors(), catalog.repositories(), catalog.jobs()) == ((), (), ())


def test_jobs_and_schedules(catalog: Catalog) -> None:
    catalog.add_job(JOB)
    assert catalog.job("j1") == catalog.job_by_name("nightly") == JOB
    schedule = Schedule("daily", "22:00", 0, "Europe/Berlin")
    catalog.set_schedule("j1", schedule, 99.0)
    assert catalog.job("j1").schedule == schedule
    assert not catalog.move_next_run("j1", 98.0, 100.0)
    assert catalog.next_runs()["j1"] == 99.0
    assert catalog.move_next_run("j1", 99.0, 100.0)
    assert catalog.next_runs()["j1"] == 100.0
    assert catalog.move_next_run("j1", 100.0, 99.0)
    assert catalog.next_runs() == {"j1": 99.0}
    with pytest.raises(NotFound):
        catalog.set_schedule("nope", schedule, None)


def test_a_session_from_start_to_end(catalog: Catalog) -> None:
    catalog.add_job(JOB)
    catalog.add_session(SESSION)
    assert catalog.session("s1") == SESSION
    with pytest.raises(JobAlreadyRunning, match="s1"):
        catalog.add_session(Session("s2", "j1", "nightly", "backup", "starting", "none", True, 11.0))
    with pytest.raises(JobAlreadyRunning):
        catalog.remove_job("j1")
    first = catalog.begin_session("s1", 123, 4.5)
    begun = catalog.session("s1")
    assert (begun.state, begun.pid, begun.pid_started) == ("running", 123, 4.5)
    catalog.request_stop("s1", now=True)
    catalog.request_stop("s1", now=False)
    assert catalog.stop_requested("s1") == "now"
    totals = Totals(1, 2, 3, 4)
    finish = functools.partial(catalog.finish_session, "s1", ended=20.0, totals=totals, warnings=("w",), error=None)
    assert finish(result="warning")
    assert not finish(result="failed")
    ended = catalog.session("s1")
    assert (ended.state, ended.result, ended.totals, ended.warnings) == ("ended", "warning", totals, ("w",))
    assert catalog.live_sessions() == ()
    assert catalog.last_results() == {"j1": "warning"}
    with pytest.raises(LeaseLost):
        catalog.begin_session("s1", 124, 5.0)
    catalog.add_session(Session("s2", "j1", "nightly", "backup", "starting", "none", True, 11.0))
    assert catalog.begin_session("s2", 125, 6.0) > first
    assert [session.session_id for session in catalog.sessions(job_id="j1")] == ["s2", "s1"]
    assert [session.session_id for session in catalog.sessions(before=11.0)] == ["s1"]


def test_tasks(catalog: Catalog) -> None:
    tasks = [Task(f"t{n}", "s1", "m", f"d{n}", needs=TaskNeeds("r1", datastores=("a", "b"))) for n in range(3)]
    catalog.add_tasks(tasks)
    catalog.update_task("t0", state="done", totals=Totals(5), error=None, reason="")
    catalog.fail_open_tasks("s1", NotFound("gone").info())
    found = catalog.tasks("s1")
    assert [task.state for task in found] == ["done", "failed", "failed"]
    assert found[0].totals == Totals(5)
    assert found[1].error == NotFound("gone").info()
    assert found[1].needs == tasks[1].needs
    with pytest.raises(ValueError, match="no_such_field"):
        catalog.update_task("t0", no_such_field=1)
    with pytest.raises(NotFound):
        catalog.update_task("t9", state="done")


def test_the_journal_shows_what_dead_sessions_left(catalog: Catalog) -> None:
    catalog.add_session(SESSION)
    catalog.begin_session("s1", 1, 1.0)
    entry = catalog.journal_add("s1", "h1", "snapshot", b"\0plan")
    assert [row.payload for row in catalog.journal_open("s1")] == [b"\0plan"]
    assert catalog.journal_orphans() == ()
    catalog.finish_session("s1", result="failed", ended=1.0, totals=Totals(), warnings=(), error=None)
    assert catalog.journal_orphans() == ()  # it may still hold what it made
    assert catalog.has_unsettled_journal()
    catalog.release_session("s1")
    assert not catalog.has_unsettled_journal()
    assert [row.entry_id for row in catalog.journal_orphans()] == [entry]
    catalog.journal_done(entry)
    assert catalog.journal_orphans() == ()


def point(name: str, sequence: int, machine: str = "m") -> Point:
    disks = (PointDisk("d", "disk.raw", 10, b"\x01" * 32, "change"),)
    return Point(name, "s1", "j1", "nightly", "images", "id", machine, "full", 5.0, sequence, disks, 1024, b"\x02" * 32)


def test_points_are_what_the_files_say(catalog: Catalog) -> None:
    catalog.replace_points("r1", "j1", "chain", [point("p2", 2), point("p1", 1)])
    catalog.add_point("r1", "chain", point("p3", 3, "other"))
    assert [stored.point.point_id for stored in catalog.points("j1")] == ["p1", "p2", "p3"]
    assert [stored.point.point_id for stored in catalog.points(machine="other")] == ["p3"]
    stored = catalog.point("p1")
    assert (stored.repository_id, stored.directory, stored.point) == ("r1", "chain", point("p1", 1))
    assert catalog.chains_of("j1") == {("r1", "chain")}
    catalog.replace_points("r1", "j1", "chain", [point("p3", 3)])
    assert [stored.point.point_id for stored in catalog.points()] == ["p3"]
    with pytest.raises(NotFound):
        catalog.point("p1")


def test_changes_are_noted(catalog: Catalog) -> None:
    catalog.audit(uid=1000, operation="job_delete", subject="nightly", outcome="ok")
    catalog.audit(uid=0, operation="job_run", subject="x", outcome="not_found")
    assert [(row.uid, row.subject, row.outcome) for row in catalog.changes()] == [
        (0, "x", "not_found"),
        (1000, "nightly", "ok"),
    ]


def test_a_newer_catalog_is_refused_and_left_alone(tmp_path: Path) -> None:
    Catalog.open(tmp_path).close()
    with sqlite3.connect(tmp_path / "catalog.db") as connection:
        connection.execute("PRAGMA user_version=999")
    connection.close()
    with pytest.raises(CatalogNewer, match="999"):
        Catalog.open(tmp_path)


def test_a_damaged_catalog_is_named(tmp_path: Path) -> None:
    (tmp_path / "catalog.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(CatalogDamaged, match=r"catalog\.db"):
        Catalog.open(tmp_path)
