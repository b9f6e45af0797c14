"""Repositories that are full, read-only, absent, or no place for one: a clear error, and what was committed stays."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

MIB = 1024 * 1024
IDENTITY = "vbrcore-repository.json"


def mount(*args: str | Path) -> None:
    subprocess.run(["mount", *args], check=True, capture_output=True, timeout=30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of a size; it is gone after the test."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    mounted: list[Path] = []

    def make(size: str) -> Path:
        path = tmp_path / "small"
        path.mkdir()
        try:
            mount("-t", "tmpfs", "-o", f"size={size},mode=700", "none", path)
        except subprocess.CalledProcessError as error:
            pytest.skip(f"mounting is not allowed here: {error.stderr!r}")
        mounted.append(path)
        return path

    yield make
    for path in mounted:
        subprocess.run(["umount", "--lazy", path], check=True, capture_output=True, timeout=30)


@pytest.fixture
def lab_line(line: Any) -> Any:
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    return line


def state_of(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in directory.rglob("*") if path.is_file()
    }


# --- repository add -------------------------------------------------------------------------------


def test_what_cannot_become_a_repository_is_refused_and_left_as_it_is(shared_line: Any, tmp_path: Path) -> None:
    line = shared_line
    full = tmp_path / "full"
    full.mkdir()
    (full / "letter.txt").write_text("mine")
    assert str(full) in line.refused("repository_not_empty", "repository", "add", "main", "--path", full)["message"]
    file = full / "letter.txt"
    assert str(file) in line.refused("repository_not_empty", "repository", "add", "main", "--path", file)["message"]
    assert [path.name for path in full.iterdir()] == ["letter.txt"]
    below = file / "below"
    assert str(below) in line.refused("invalid_value", "repository", "add", "main", "--path", below)["message"]

    other = tmp_path / "absent" / "repository"
    line("repository", "add", "other", "--path", other)
    identity = (other / IDENTITY).read_bytes()
    again = line.refused("repository_exists", "repository", "add", "again", "--path", other)
    assert "repository import" in again["hint"]
    link = tmp_path / "link"
    link.symlink_to(other)
    line.refused("repository_exists", "repository", "add", "again", "--path", link)
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    line.refused("invalid_value", "repository", "add", "again", "--path", tmp_path / "dangling")
    line.refused("already_exists", "repository", "add", "other", "--path", tmp_path / "third")
    assert not (tmp_path / "third").exists()
    assert (other / IDENTITY).read_bytes() == identity
    assert {one["name"] for one in line.json("repository", "list")} == {"other", "default"}


def test_a_repository_on_a_full_or_read_only_file_system_is_refused(lab_line: Any, small_disk: Any) -> None:
    place = small_disk("64k")
    (place / "ballast").write_bytes(bytes(64 * 1024))
    lab_line.refused("repository_full", "repository", "add", "main", "--path", place / "repository")
    assert [path.name for path in place.iterdir()] == ["ballast"]
    (place / "ballast").unlink()
    mount("-o", "remount,ro", place)
    lab_line.refused("repository_read_only", "repository", "add", "main", "--path", place / "repository2")
    assert not (place / "repository2").exists()
    assert "main" not in {one["name"] for one in lab_line.json("repository", "list")}


# --- full -----------------------------------------------------------------------------------------


def test_below_the_reserve_no_task_starts(lab_line: Any, small_disk: Any, make_disk: Any) -> None:
    make_disk(lab_line.lab / "web" / "disk.raw", seed=1, data_mib=1, size_bytes=MIB)
    place = small_disk("32M")
    lab_line("repository", "add", "main", "--path", place / "repository", "--reserve", "24M")
    lab_line.add_job("nightly")
    lab_line.run_job()
    (place / "ballast").write_bytes(bytes(10 * MIB))
    assert lab_line.json("repository", "show", "main")["state"] == "below_reserve"
    before = state_of(place)
    error = lab_line.refused("session_failed", "job", "run", "nightly")
    assert str(place) in error["message"]
    assert lab_line.json("session", "list", "--job", "nightly")[0]["error"]["code"] == "repository_full"
    assert state_of(place) == before
    assert len(lab_line.points()) == 1


@pytest.mark.parametrize("reserve", ["0", "8M"])
def test_a_repository_that_fills_up_in_the_middle_stops_cleanly_and_keeps_its_points(
    lab_line: Any, small_disk: Any, make_disk: Any, sha256: Any, reserve: str
) -> None:
    line = lab_line
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=4, size_bytes=64 * MIB)
    place = small_disk("24M")
    line("repository", "add", "main", "--path", place / "repository", "--reserve", reserve)
    line.add_job("nightly", "--compression", "none")
    line.run_job()
    first = sha256(disk)
    make_disk(disk, seed=2, data_mib=60, size_bytes=64 * MIB)
    failed = line.failed_tasks()
    assert failed["web", "disk.raw"]["code"] == "repository_full"
    assert str(place) in failed["web", "disk.raw"]["message"]
    (point,) = line.points()
    line("verify", point["point_id"], "--deep")
    assert sha256(line.restore(point["point_id"], "disk.raw")) == first
    # With space again, the next session goes on as if nothing had been.
    mount("-o", "remount,size=128M", place)
    assert line.run_job()["result"] == "success"
    assert len(line.points()) == 2
    assert sha256(line.restore(line.points()[-1]["point_id"], "disk.raw")) == sha256(disk)
    line("verify", line.points()[0]["point_id"], "--deep")


# --- read-only, not mounted -----------------------------------------------------------------------


def test_a_read_only_repository_restores_and_takes_no_backup(
    lab_line: Any, small_disk: Any, make_disk: Any, sha256: Any
) -> None:
    line = lab_line
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=1, size_bytes=2 * MIB)
    place = small_disk("32M")
    line("repository", "add", "main", "--path", place / "repository", "--reserve", "1M")
    line.add_job("nightly")
    line.run_job()
    point = line.points()[0]["point_id"]
    mount("-o", "remount,ro", place)
    before = state_of(place)
    assert line.json("repository", "show", "main")["state"] == "read_only"
    error = line.refused("session_failed", "job", "run", "nightly")
    assert str(place) in error["message"]
    assert line.json("session", "list", "--job", "nightly")[0]["error"]["code"] == "repository_read_only"
    line("verify", point, "--deep")
    assert sha256(line.restore(point, "disk.raw")) == sha256(disk)
    line.refused("repository_read_only", "point", "delete", point)
    line.refused("repository_read_only", "job", "delete", "nightly", "--with-backups", "--confirm", "nightly")
    assert state_of(place) == before
    assert [one["point_id"] for one in line.points()] == [point]
    mount("-o", "remount,rw", place)
    assert line.run_job()["result"] == "success"


def make_absent(line: Any, how: str, away: Path) -> None:
    """Put what would be there if the repository's file system were not mounted, or another one were."""
    shutil.rmtree(line.repository, ignore_errors=True)
    if how != "no directory":
        line.repository.mkdir()
    if how == "another repository":
        text = (away / IDENTITY).read_text()
        repository_id = line.json("repository", "show", "main")["repository_id"]
        (line.repository / IDENTITY).write_text(text.replace(repository_id[:8], "00000000"))


def test_a_repository_that_is_not_mounted_is_never_made_anew(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=1, size_bytes=2 * MIB)
    line.set_up()
    line.run_job()
    point = line.points()[0]["point_id"]
    away = line.repository.with_name("away")
    line.repository.rename(away)
    for how in ("no directory", "no identity", "another repository"):
        make_absent(line, how, away)
        before = sorted(line.repository.parent.rglob("*"))
        assert line.json("repository", "show", "main")["state"] == "not_mounted"
        assert str(line.repository) in line.refused("session_failed", "job", "run", "nightly")["message"]
        assert line.json("session", "list", "--job", "nightly")[0]["error"]["code"] == "repository_not_mounted"
        line.refused("repository_not_mounted", "verify", point)
        assert sorted(line.repository.parent.rglob("*")) == before
    line.refused("repository_not_mounted", "restore", "disk", point, "disk.raw", "--output", line.out / "no.raw")
    line.refused("repository_not_mounted", "point", "delete", point)
    line.refused("repository_not_mounted", "job", "delete", "nightly", "--with-backups", "--confirm", "nightly")
    line.refused("repository_not_mounted", "repository", "remove", "main", "--with-backups", "--confirm", "main")
    assert sorted(line.repository.parent.rglob("*")) == before
    shutil.rmtree(line.repository)
    away.rename(line.repository)
    assert line.run_job()["result"] == "success"
    assert sha256(line.restore(point, "disk.raw")) == sha256(disk)


# --- removed --------------------------------------------------------------------------------------


def test_deleting_jobs_and_repositories_keeps_backups_unless_their_name_is_typed(
    line: Any, make_disk: Any, sha256: Any
) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=1, size_bytes=2 * MIB)
    line.set_up()
    line.add_job("second")
    line.run_job()
    line.run_job("second")
    point = line.points()[0]["point_id"]
    files = sorted(line.repository.rglob("*.vbf"))
    assert len(files) == 2
    line.refused("confirmation_needed", "job", "delete", "nightly", "--with-backups")
    line.refused("confirmation_needed", "job", "delete", "nightly", "--with-backups", "--confirm", "nightlyy")
    line.refused("in_use", "repository", "remove", "main")
    line("job", "delete", "nightly")
    assert sorted(line.repository.rglob("*.vbf")) == files
    assert [one["point_id"] for one in line.points()] == [point]
    assert sha256(line.restore(point, "disk.raw")) == sha256(disk)
    line.refused("confirmation_needed", "job", "delete", "second", "--with-backups", "--confirm", "nightly")
    line("job", "delete", "second", "--with-backups", "--confirm", "second")
    assert len(sorted(line.repository.iterdir())) == 2  # the other job's chain and the identity
    line.refused("not_found", "point", "list", "--job", "second")
    line.refused("confirmation_needed", "repository", "remove", "main", "--with-backups")
    line.refused("confirmation_needed", "repository", "remove", "main", "--with-backups", "--confirm", "other")
    (line.repository / "letter.txt").write_text("mine")
    line("repository", "remove", "main")
    assert len(sorted(line.repository.rglob("*.vbf"))) == 1
    assert (line.repository / IDENTITY).exists()


def test_removing_a_repository_with_its_backups_removes_nothing_else(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=1, size_bytes=2 * MIB)
    line.set_up()
    line.run_job()
    (line.repository / "letter.txt").write_text("mine")
    line("job", "delete", "nightly")
    line("repository", "remove", "main", "--with-backups", "--confirm", "main")
    assert [path.name for path in line.repository.iterdir()] == ["letter.txt"]
    assert "main" not in {one["name"] for one in line.json("repository", "list")}
    (line.repository / "letter.txt").unlink()
    line("repository", "add", "main", "--path", line.repository)
