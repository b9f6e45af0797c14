"""Stopping a job that runs, in each of the ways there are: what ended is kept, what did not is told truthfully."""

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from vbrcore.api import operations, types
from vbrcore.api.client import Client

MIB = 1024 * 1024
MACHINES = 5


@pytest.fixture
def busy(line: Any) -> Any:
    """A job over several machines that takes seconds, of which two run at a time."""
    for number in range(MACHINES):
        disk: Path = line.lab / f"m{number}" / "disk.raw"
        disk.parent.mkdir()
        disk.write_bytes(os.urandom(96 * MIB))
    line.set_up("nightly", "--compression", "high")
    return line


def running_session(line: Any) -> dict[str, Any]:
    """Wait until a disk is being read; return the session."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for session in line.json("session", "list", "--job", "nightly"):
            shown: dict[str, Any] = line.session(session["session_id"])
            if any(task["state"] == "running" and task["disk"] == "disk.raw" for task in shown["tasks"]):
                return shown
        time.sleep(0.05)
    pytest.fail("no disk was read")


def check_truthful(line: Any, session_id: str, *, kept: range) -> None:
    """Machines with a point are done, all others are not, and the session failed for being stopped."""
    session = line.session(session_id)
    assert (session["state"], session["result"]) == ("ended", "failed")
    assert session["error"]["code"] == "session_stopped"
    machines = {point["machine"] for point in line.points()}
    assert len(machines) in kept
    for task in session["tasks"]:
        assert (task["state"] == "done") == (task["machine"] in machines), task
        assert task["state"] in {"done", "skipped", "failed"}
    log = [json.loads(text) for text in line("session", "log", session_id, "--json").splitlines()]
    assert log[-1]["message"].startswith("Job has stopped with failures. Name: [nightly]")
    assert {one["kind"] for one in line.json("ps")} == {"service"}
    for point in line.points():
        line("verify", point["point_id"])


def test_ctrl_c_lets_started_machines_finish_and_says_that_it_stopped(busy: Any) -> None:
    with busy.vbr.start("job", "run", "nightly", "--json") as command:
        session = running_session(busy)
        command.send_signal(signal.SIGINT)
        output, said = command.communicate(timeout=100)
    assert command.returncode == 3
    assert json.loads(output)["result"] == "failed"
    assert "Stopping: started machines finish" in said
    assert "Traceback" not in said
    check_truthful(busy, session["session_id"], kept=range(1, MACHINES))
    busy.run_job()
    assert {point["machine"] for point in busy.points()} == {f"m{number}" for number in range(MACHINES)}


def test_job_stop_now_ends_started_machines_too(busy: Any) -> None:
    started = busy.start_job()
    busy.refused("job_already_running", "job", "run", "nightly")
    running_session(busy)
    busy.refused("job_already_running", "job", "delete", "nightly", "--with-backups", "--confirm", "nightly")
    busy("job", "stop", "nightly", "--now")
    busy.wait_for_end(started["session_id"])
    check_truthful(busy, started["session_id"], kept=range(MACHINES))
    busy.refused("not_found", "job", "stop", "nightly")


def test_service_stop_stops_its_sessions_first(busy: Any) -> None:
    started = busy.start_job()
    running_session(busy)
    assert busy.json("service", "stop") == {"stopped": True}
    check_truthful(busy, started["session_id"], kept=range(1, MACHINES))


def test_a_manager_that_hangs_is_ended_and_its_job_runs_again(busy: Any) -> None:
    started = busy.start_job()
    session = running_session(busy)
    (manager,) = [one for one in busy.json("ps") if one["kind"] == "job-manager"]
    os.kill(manager["pid"], signal.SIGSTOP)
    busy("job", "stop", "nightly", "--now")
    ended = busy.wait_for_end(started["session_id"])
    assert session["session_id"] == ended["session_id"]
    assert (ended["result"], ended["error"]["code"]) == ("failed", "manager_lost")
    assert {task["state"] for task in ended["tasks"]} <= {"done", "failed", "skipped"}
    busy.run_job()
    assert {point["machine"] for point in busy.points()} == {f"m{number}" for number in range(MACHINES)}
    assert {one["kind"] for one in busy.json("ps")} == {"service"}


def test_job_stop_now_cuts_a_long_upkeep_short(line: Any, make_disk: Any, sha256: Any) -> None:
    """What it has moved so far is nothing yet; what was there stays, and the next session goes on."""
    machines = ("app", "db", "web")  # read side by side: what upkeep puts in order lies in many places
    for seed, machine in enumerate(machines):
        make_disk(line.lab / machine / "disk.raw", seed=seed, data_mib=12, size_bytes=12 * MIB)
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    line("repository", "add", "main", "--path", line.repository, "--reserve", "1M", "--rate-limit", "2M")
    line.add_job("nightly")
    line.run_job()
    there = set(line.repository.glob("*/*.vbf"))
    with line.vbr.start("job", "compact", "nightly", "--rewrite", "--json") as command:
        deadline = time.monotonic() + 60
        while not any(path.stat().st_size > MIB for path in set(line.repository.glob("*/*.vbf")) - there):
            assert time.monotonic() < deadline, "nothing was moved"
            assert command.poll() is None
            time.sleep(0.05)
        with Client(line.home, start=False) as client:
            client.call(operations.JOB_STOP, types.JobStop("nightly", now=True))
        output, _ = command.communicate(timeout=100)
    done = json.loads(output.splitlines()[-1])
    assert done["result"] == "failed"
    session = line.session(done["session_id"])
    assert (session["state"], session["error"]["code"]) == ("ended", "session_stopped")
    assert {one["kind"] for one in line.json("ps")} == {"service"}
    assert len(line.points()) == len(machines)
    assert line.run_job()["result"] == "success"
    assert len(line.points()) == 2 * len(machines)
    for point in line.points()[-len(machines) :]:
        assert sha256(line.restore(point["point_id"], "disk.raw")) == sha256(line.lab / point["machine"] / "disk.raw")
    assert not [path for path in there if not path.exists()]
    line("health", "check", "nightly", "--deep")
