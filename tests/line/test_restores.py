"""Restores end to end: whole machines of the images plugin, and that a restore that fails or dies leaves nothing."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import processes_of, stop_processes_of

MIB = 1024 * 1024


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 100) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited in vain for: {what}")
        time.sleep(0.002)


def writing_mover(home: Path, directory: Path) -> int | None:
    """Return the restore mover that has a file below `directory` open, if there is one."""
    for pid, command in processes_of(home).items():
        if "--role restore" in command:
            try:
                links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
            except OSError:
                continue
            if any(link.startswith(f"{directory}/") for link in links if link.endswith("(deleted)")):
                return pid
    return None


def visible(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


@pytest.fixture
def long(line: Any) -> str:
    """Give a point of a disk that is small to keep and takes a while to write."""
    disk = line.lab / "web" / "system.raw"
    disk.parent.mkdir()
    block = os.urandom(MIB)
    with disk.open("wb") as file:
        for _ in range(1200):
            file.write(block)
    line.set_up()
    line.run_job()
    point: str = line.points()[0]["point_id"]
    return point


def stopped_while_writing(line: Any, directory: Path) -> int:
    """Wait for a restore mover that is writing below `directory` and stop it there."""
    found: list[int] = []

    def stopped() -> bool:
        mover = writing_mover(line.home, directory)
        if mover is not None:
            os.kill(mover, signal.SIGSTOP)
            found.append(mover)
        return mover is not None

    wait_for(stopped, "a mover that writes")
    return found[0]


def the(line: Any, part: str) -> int:
    return next(pid for pid, command in processes_of(line.home).items() if part in command)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
@pytest.mark.parametrize("killed", ["mover", "job-manager"])
def test_a_killed_restore_of_a_disk_leaves_no_file(line: Any, long: str, image_format: str, killed: str) -> None:
    output = line.out / "disk"
    command = ("restore", "disk", long, "system.raw", "--output", output, "--format", image_format)
    with line.vbr.start(*command) as process:
        mover = stopped_while_writing(line, line.out)
        os.kill(mover if killed == "mover" else the(line, "vbrcore job-manager"), signal.SIGKILL)
        process.communicate(timeout=100)
        assert process.returncode != 0
    wait_for(lambda: mover not in processes_of(line.home), "the end of the mover")
    assert visible(line.out) == []
    line(*command)  # and it can be done again
    assert visible(line.out) == ["disk"]


def test_a_stopped_restore_of_a_disk_leaves_no_file(line: Any, long: str) -> None:
    with line.vbr.start("restore", "disk", long, "system.raw", "--output", line.out / "disk") as process:
        stopped_while_writing(line, line.out)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=100)
        assert process.returncode != 0
    assert visible(line.out) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("killed", ["mover", "job-manager"])
def test_a_killed_restore_of_a_machine_leaves_nothing(line: Any, long: str, killed: str) -> None:
    command = ("restore", "machine", long, "--hypervisor", "lab", "--name", "new")
    with line.vbr.start(*command) as process:
        mover = stopped_while_writing(line, line.lab)
        assert len(visible(line.lab)) == 2, "its staging directory is there"
        assert "new" not in visible(line.lab), "nobody sees half a machine"
        os.kill(mover if killed == "mover" else the(line, "vbrcore job-manager"), signal.SIGKILL)
        process.communicate(timeout=100)
        assert process.returncode != 0
    wait_for(lambda: visible(line.lab) == ["web"], "the end of what was made")
    line(*command)
    assert visible(line.lab) == ["new", "web"]


def test_a_machine_is_restored_with_all_its_disks(line: Any, make_disk: Any, sha256: Any) -> None:
    disks = [
        make_disk(line.lab / "web" / "system.raw", seed=1),
        make_disk(line.lab / "web" / "data.img", seed=2, size_bytes=5 * MIB + 513),
        make_disk(line.lab / "web" / "empty.raw", seed=3, data_mib=0, size_bytes=0),
    ]
    line.set_up()
    line.run_job()
    before = {disk.stem: sha256(disk) for disk in disks}
    with disks[0].open("r+b") as file:
        file.write(b"changed")
    line.run_job()
    first, second = (point["point_id"] for point in line.points())
    line("restore", "machine", first, "--hypervisor", "lab", "--name", "older")
    line("restore", "machine", second, "--hypervisor", "lab", "--name", "newer")
    assert visible(line.lab) == ["newer", "older", "web"]
    assert {disk.stem: sha256(disk) for disk in (line.lab / "older").iterdir()} == before
    now = {disk.stem: sha256(disk) for disk in disks}
    assert {disk.stem: sha256(disk) for disk in (line.lab / "newer").iterdir()} == now
    assert now != before
    for disk in (line.lab / "newer").iterdir():
        assert disk.stat().st_mode & 0o777 == 0o600
    line.refused("already_exists", "restore", "machine", first, "--hypervisor", "lab", "--name", "older")
    # The restored ones are machines like any other.
    done = line.run_job()
    assert done["result"] == "success"
    assert {point["machine"] for point in line.points()} == {"web", "older", "newer"}


def test_a_machine_with_a_damaged_disk_is_not_made(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "a.raw", seed=1)
    make_disk(line.lab / "web" / "b.raw", seed=2)
    line.set_up()
    line.run_job()
    stop_processes_of(line.home)
    (backup,) = line.repository.rglob("*.vbf")
    with backup.open("r+b") as file:
        file.seek(backup.stat().st_size // 2)
        file.write(os.urandom(64 * 1024))
    point = line.points()[0]["point_id"]
    line.refused("data_corrupt", "restore", "machine", point, "--hypervisor", "lab", "--name", "new")
    assert visible(line.lab) == ["web"]
