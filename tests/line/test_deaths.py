"""Whoever dies, dies alone: kill -9 and SIGSTOP of each process of a running session, then a truthful end."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import processes_of

MIB = 1024 * 1024
ROLES = ["job-manager", "transport", "source", "target", "service"]


def find(line: Any, session_id: str, wanted: str, timeout_s: float = 30) -> int:
    """Return the pid of a process of the session, by its kind or role."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for pid, command in processes_of(line.home).items():
            if wanted == "service" and "vbrcore service run" in command:
                return pid
            if session_id in command and (f" {wanted} " in command or f"--role {wanted}" in command):
                return pid
        time.sleep(0.01)
    message = f"no {wanted} process of session {session_id}"
    raise AssertionError(message)


@pytest.fixture
def big(line: Any, make_disk: Any) -> Path:
    """A machine whose backup takes seconds, with a committed point from before the change."""
    disk: Path = make_disk(line.lab / "big" / "disk.raw", seed=7, data_mib=120, size_bytes=160 * MIB)
    line.set_up("nightly", "--compression", "high")
    line.run_job()
    make_disk(disk, seed=8, data_mib=120, size_bytes=160 * MIB)
    return disk


def slots_used(line: Any) -> int:
    return sum(server["proxy_slots_used"] + server["host_budget_used"] for server in line.json("server", "list"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize("wanted", ROLES)
def test_kill_9_of_any_process_ends_truthfully_and_the_next_session_succeeds(
    line: Any, big: Path, sha256: Any, wanted: str
) -> None:
    before = line.points()
    started = line.start_job()
    find(line, started["session_id"], "source")
    os.kill(find(line, started["session_id"], wanted), signal.SIGKILL)
    ended = line.wait_for_end(started["session_id"])
    after = line.points()
    assert after[: len(before)] == before, "a committed point was lost"
    if wanted == "job-manager":
        assert ended["result"] == "failed"
        assert len(after) == len(before)
    else:
        assert ended["result"] in {"success", "warning"}
        assert len(after) == len(before) + 1
    line.run_job()
    assert slots_used(line) == 0
    assert sha256(line.restore(line.points()[-1]["point_id"], "disk.raw")) == sha256(big)
    line("verify", before[0]["point_id"], "--deep")


@pytest.mark.timeout(300)
def test_a_stopped_target_mover_is_killed_by_its_transport_and_the_retry_succeeds(
    line: Any, big: Path, sha256: Any
) -> None:
    started = line.start_job()
    find(line, started["session_id"], "source")
    target = find(line, started["session_id"], "target")
    os.kill(target, signal.SIGSTOP)
    ended = line.wait_for_end(started["session_id"], timeout_s=150)
    assert ended["result"] in {"success", "warning"}
    assert not psutil.pid_exists(target)
    assert sha256(line.restore(line.points()[-1]["point_id"], "disk.raw")) == sha256(big)


@pytest.mark.timeout(420)
def test_while_a_stopped_target_mover_of_a_stopped_transport_is_there_nobody_else_writes(
    line: Any, big: Path, sha256: Any
) -> None:
    before = line.points()
    started = line.start_job()
    find(line, started["session_id"], "source")
    target = psutil.Process(find(line, started["session_id"], "target"))
    transport = find(line, started["session_id"], "transport")
    os.kill(transport, signal.SIGSTOP)
    target.suspend()
    stopped_at = time.monotonic()
    files = state_of(line.repository)
    while time.monotonic() < stopped_at + 120:
        now = state_of(line.repository)
        if not target.is_running():  # the manager killed the silent transport, and with it what it had started
            break
        assert now == files, "somebody wrote while the first writer was there"
        time.sleep(0.2)
    else:
        target.resume()
        target.wait(timeout=60)
    written = {name: state for name, state in state_of(line.repository).items() if name in files}
    assert written == files, "the old writer wrote after it was stopped"
    ended = line.wait_for_end(started["session_id"], timeout_s=150)
    assert ended["result"] in {"success", "warning"}
    after = line.points()
    assert after[:-1] == before
    assert sha256(line.restore(after[-1]["point_id"], "disk.raw")) == sha256(big)
    line.run_job()


def state_of(repository: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in repository.rglob("*.vbf")
        if path.is_file()
    }
