"""Following real sessions: what is printed, how they are stopped, and that they outlive the service."""

import json
import os
import pty
import select
import signal
import subprocess
from pathlib import Path
from typing import IO

import pytest

from tests.conftest import Vbr

MIB = 1024 * 1024
SUMMARY = ["session_id", "job_id", "result", "read_bytes", "transferred_bytes", "stored_bytes", "duration_s"]


@pytest.fixture
def lab(vbr: Vbr, tmp_path: Path) -> Path:
    """A job `nightly` of all machines in a directory, one of them there: `web` with a disk of 3 MiB and a bit."""
    directory = tmp_path / "lab"
    directory.mkdir()
    (directory / "web.raw").write_bytes(os.urandom(3 * MIB + 700))
    vbr("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={directory}")
    vbr("repository", "add", "main", "--path", tmp_path / "repository", "--reserve", "1M")
    vbr("job", "create", "nightly", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    return directory


def wait_for(stream: IO[str] | None, text: str) -> None:
    """Read lines until one holds the text."""
    assert stream is not None
    for line in stream:
        if text in line:
            return
    pytest.fail(f"it never said {text!r}")


@pytest.mark.usefixtures("lab")
def test_a_run_ends_with_one_json_object(vbr: Vbr) -> None:
    done = vbr("job", "run", "nightly", "--json")
    summary = json.loads(done.stdout)
    assert list(summary) == SUMMARY
    assert summary["result"] == "success"
    assert "web / web.raw: done" in done.stderr
    [session] = vbr.json("session", "list", "--job", "nightly")
    assert session["session_id"] == summary["session_id"]
    assert vbr.json("session", "show", summary["session_id"])["tasks"]
    assert "web / web.raw" in vbr("session", "show", summary["session_id"]).stdout
    assert "has been stopped successfully" in vbr("session", "log", summary["session_id"]).stdout.splitlines()[-1]
    [point] = vbr.json("point", "list", "--job", "nightly")
    assert point.keys() >= {"point_id", "machine", "kind", "created", "disks"}
    assert point["disks"] == [{"name": "web.raw", "size_bytes": 3 * MIB + 700}]
    assert vbr.json("point", "show", point["point_id"]) == point
    assert list(vbr.json("verify", point["point_id"], "--deep")) == SUMMARY


def test_a_failed_run_names_every_disk_that_failed(vbr: Vbr, lab: Path) -> None:
    (lab / "db.qcow2").write_bytes(b"no such image" * 100)
    for_people = vbr("job", "run", "nightly", exit_code=3)
    assert "db / db.qcow2: image_invalid: " in for_people.stderr
    assert "  hint: " in for_people.stderr
    assert for_people.stderr.splitlines()[-2].startswith("error: ")
    for_programs = vbr("job", "run", "nightly", "--json", exit_code=3)
    assert json.loads(for_programs.stdout)["result"] == "failed"
    error = json.loads(for_programs.stderr.splitlines()[-1])["error"]
    assert error["code"] == "session_failed"
    assert ("db", "db.qcow2", "image_invalid") in {(t["machine"], t["disk"], t["code"]) for t in error["tasks"]}


@pytest.mark.usefixtures("lab")
def test_a_terminal_gets_bars(vbr: Vbr) -> None:
    ours, theirs = pty.openpty()
    with vbr.start("job", "run", "nightly", stderr=theirs) as command:
        shown = b""
        while command.poll() is None:
            while select.select([ours], [], [], 0.05)[0]:
                shown += os.read(ours, 4096)
        assert command.stdout is not None
        assert command.stdout.read().startswith("backup of nightly: success in ")
    os.close(theirs)
    os.close(ours)
    assert command.returncode == 0
    assert b"\x1b[" in shown
    assert b"1 of 1 done" in shown


def test_ctrl_c_stops_the_session(vbr: Vbr, lab: Path) -> None:
    for number in range(6):
        with (lab / f"big{number}.raw").open("wb") as file:
            file.write(os.urandom(64 * MIB))
    with vbr.start("job", "run", "nightly", "--json") as command:
        wait_for(command.stderr, ": running")
        command.send_signal(signal.SIGINT)
        wait_for(command.stderr, "Stopping: ")
        command.send_signal(signal.SIGINT)
        output, said = command.communicate(timeout=60)
    assert command.returncode == 3
    assert json.loads(output)["result"] == "failed"
    assert "stopped on request" in said or "asked to stop" in said
    [session] = vbr.json("session", "list", "--job", "nightly")
    assert session["state"] == "ended"
    assert len(vbr.json("point", "list")) < 7
    assert vbr.json("ps")[1:] == []


def test_a_run_outlives_the_service(vbr: Vbr, lab: Path) -> None:
    (lab / "big.raw").write_bytes(os.urandom(64 * MIB))
    with vbr.start("job", "run", "nightly", "--json") as command:
        wait_for(command.stderr, ": running")
        os.kill(vbr.json("service", "status")["pid"], signal.SIGKILL)
        output, _ = command.communicate(timeout=60)
    assert command.returncode == 0
    assert json.loads(output)["result"] == "success"


@pytest.mark.usefixtures("lab")
def test_a_detached_run_and_its_log(vbr: Vbr) -> None:
    started = vbr.json("job", "run", "nightly", "--detach")
    assert list(started) == ["session_id", "job_id"]
    lines = [
        json.loads(line)
        for line in vbr("session", "log", started["session_id"], "--follow", "--json").stdout.splitlines()
    ]
    assert lines[-1]["message"].startswith("Job has been stopped successfully. Name: [nightly]")
    assert vbr.json("session", "show", started["session_id"])["result"] == "success"


def test_a_disk_goes_to_standard_output(vbr: Vbr, lab: Path) -> None:
    vbr("job", "run", "nightly")
    [point] = vbr.json("point", "list")
    command = [*vbr.command, "restore", "disk", point["point_id"], "web.raw", "--output", "-", "--json"]
    done = subprocess.run(command, check=True, capture_output=True, env=vbr.environment)
    assert done.stdout == (lab / "web.raw").read_bytes()
    assert list(json.loads(done.stderr.splitlines()[-1])) == SUMMARY
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nobody:
        left = subprocess.run(command, check=False, stdout=nobody, stderr=subprocess.PIPE, env=vbr.environment)
    assert left.returncode > 0
    assert b"Traceback" not in left.stderr


def test_backups_of_a_deleted_job(vbr: Vbr, lab: Path, tmp_path: Path) -> None:
    vbr("job", "run", "nightly")
    assert list((tmp_path / "repository").rglob("*.vbf"))
    vbr("job", "delete", "nightly")
    assert list((tmp_path / "repository").rglob("*.vbf"))
    vbr("job", "create", "other", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    vbr("job", "run", "other")
    vbr("job", "delete", "other", "--with-backups", "--confirm", "other")
    assert len(list((tmp_path / "repository").rglob("*.vbf"))) == 1
    assert lab.exists()
