"""The end of a hard window while a backup and a copy run: both stop what has begun, and say so truthfully."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from vbrcore.catalog.catalog import Catalog

pytestmark = pytest.mark.timeout(300)

MIB = 1024 * 1024
SHORTEST_S = 15  # a window ends with a minute, and sessions must have begun before


def window_that_ends_soon() -> str:
    left_s = 60 - time.time() % 60
    if left_s < SHORTEST_S:
        time.sleep(left_s + 0.1)
    soon = datetime.now(UTC) + timedelta(minutes=1)
    return f"{soon - timedelta(hours=2):%H:%M}-{soon:%H:%M}"


def due_now(line: Any, names: tuple[str, ...]) -> None:
    """Have jobs start by their schedules."""
    catalog = Catalog.open(line.home)
    try:
        for name in names:
            job = catalog.job_by_name(name)
            catalog.set_schedule(job.job_id, job.schedule, time.time())
    finally:
        catalog.close()


def sessions_of(line: Any, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = line.json("session", "list", "--job", name)
    return found


def test_a_hard_window_ends_a_backup_and_a_copy_that_run(line: Any, tmp_path: Path) -> None:
    disk: Path = line.lab / "m0" / "disk.raw"
    disk.parent.mkdir()
    disk.write_bytes(os.urandom(100 * MIB))
    line.set_up("first")
    line.run_job("first")
    names = ("slow", "offsite")
    for name in names:  # 100 MiB at this rate take longer than any window that ends with the minute
        path = tmp_path / name
        line("repository", "add", name, "--path", path, "--reserve", "1M", "--rate-limit", "1M", "--slots", "2")
    line("job", "create", "slow", "--hypervisor", "lab", "--machine", "*", "--repository", "slow")
    line("job", "create", "offsite", "--from-repository", "main", "--machine", "*", "--repository", "offsite")
    window = ("--window", window_that_ends_soon(), "--hard-window", "--zone", "UTC", "--retry-wait", "1s")
    for name in names:
        line("job", "schedule", name, "--every", "7d", *window)
    due_now(line, names)
    started = {name: wait_for_task(line, name) for name in names}
    for name in names:
        session = line.wait_for_end(started[name])
        assert (session["result"], session["error"]["code"]) == ("failed", "outside_window"), session
        assert {task["state"] for task in session["tasks"]} <= {"failed", "skipped"}
        log = line("session", "log", started[name], "--json")
        assert "has ended" in log
        assert line.points(name) == []
        assert [one["session_id"] for one in sessions_of(line, name)] == [started[name]]  # no retry outside the window
    assert {one["kind"] for one in line.json("ps")} == {"service"}


def wait_for_task(line: Any, name: str) -> str:
    """Wait until a task of a job's session runs; return the session's id."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for session in sessions_of(line, name):
            shown = line.session(session["session_id"])
            if any(task["state"] == "running" for task in shown["tasks"]):
                return str(session["session_id"])
        time.sleep(0.1)
    pytest.fail(f"no disk of {name} was read")
