"""The thin path: full, change, increment, restore of both, through all processes."""

import json
import subprocess
from typing import Any

MIB = 1024 * 1024


def test_full_change_increment_and_restore_of_both_points(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "system.raw", seed=1)
    make_disk(line.lab / "web" / "data.img", seed=2, size_bytes=5 * MIB + 513)
    line.set_up()
    first_hash = sha256(disk)
    full = line.run_job()
    assert full["result"] == "success"
    assert set(full) >= {"session_id", "job_id", "read_bytes", "transferred_bytes", "stored_bytes", "duration_s"}
    with disk.open("r+b") as file:
        file.seek(2 * MIB + 100)
        file.write(b"changed")
    second_hash = sha256(disk)
    increment = line.run_job()
    assert increment["result"] == "success"
    assert 0 < int(increment["transferred_bytes"]) < 2 * MIB
    points = line.points()
    assert [point["kind"] for point in points] == ["full", "increment"]
    assert [d["name"] for d in points[0]["disks"]] == ["data.img", "system.raw"]
    assert sha256(line.restore(points[0]["point_id"], "system.raw")) == first_hash
    assert sha256(line.restore(points[1]["point_id"], "system.raw")) == second_hash
    restored = line.restore(points[1]["point_id"], "data.img")
    assert sha256(restored) == sha256(line.lab / "web" / "data.img")
    for point in points:
        line("verify", point["point_id"], "--deep")


def test_an_unchanged_disk_transfers_nothing(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "system.raw", seed=1)
    line.set_up()
    line.run_job()
    again = line.run_job()
    assert again["result"] == "success"
    assert int(again["transferred_bytes"]) < 64 * 1024  # pages of the map, to compare with


def test_the_log_ends_with_the_line_that_monitoring_looks_for(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "system.raw", seed=1, data_mib=1)
    line.set_up()
    done = line.run_job()
    lines = [json.loads(text) for text in line("session", "log", done["session_id"], "--json").splitlines()]
    assert lines[-1]["message"] == (f"Job has been stopped successfully. Name: [nightly], JobId: [{done['job_id']}]")
    assert {entry["kind"] for entry in lines} >= {"job-manager", "mover"}


def test_formats_of_a_restored_disk_hold_the_same(line: Any, make_disk: Any) -> None:
    disk = make_disk(line.lab / "web" / "system.raw", seed=3)
    line.set_up()
    line.run_job()
    point = line.points()[0]["point_id"]
    for image_format in ("qcow2", "vmdk", "vhdx"):
        restored = line.restore(point, "system.raw", image_format)
        command = ["qemu-img", "compare", "-f", "raw", "-F", image_format, str(disk), str(restored)]
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_disk_streams_to_standard_output(line: Any, make_disk: Any) -> None:
    disk = make_disk(line.lab / "web" / "system.raw", seed=4)
    line.set_up()
    line.run_job()
    point = line.points()[0]["point_id"]
    target = line.out / "stream.raw"
    with target.open("wb") as file:
        command = [*line.vbr.command, "restore", "disk", point, "system.raw", "--output", "-"]
        subprocess.run(command, stdout=file, check=True, timeout=60, env=line.vbr.environment)
    assert target.read_bytes() == disk.read_bytes()


def test_a_point_that_was_deleted_is_gone_and_the_others_restore(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "system.raw", seed=5)
    line.set_up()
    line.run_job()
    with disk.open("r+b") as file:
        file.write(b"second")
    line.run_job()
    first, second = line.points()
    line("point", "delete", first["point_id"])
    assert [point["point_id"] for point in line.points()] == [second["point_id"]]
    assert sha256(line.restore(second["point_id"], "system.raw")) == sha256(disk)
    line("restore", "disk", first["point_id"], "system.raw", "--output", str(line.out / "no"), expect=4)


def test_two_jobs_run_side_by_side_with_a_manager_and_a_target_mover_each(line: Any, make_disk: Any) -> None:
    for name in ("a", "b"):
        make_disk(line.lab / name / "disk.raw", seed=ord(name), data_mib=200, size_bytes=200 * MIB)
    line.set_up("one", "--compression", "high")
    line.add_job("two", "--compression", "high")
    started = [line.start_job(job) for job in ("one", "two")]
    seen: set[tuple[str, str, str]] = set()
    while any(line.session(one["session_id"])["state"] != "ended" for one in started):
        seen |= {(p["kind"], p["role"], p["job_id"]) for p in line.json("ps")}
    for one in started:
        assert line.session(one["session_id"])["result"] == "success"
        assert "job-manager" in {kind for kind, _, job in seen if job == one["job_id"]}
        assert ("mover", "target", one["job_id"]) in seen
        assert ("mover", "source", one["job_id"]) in seen
        assert "transport" in {kind for kind, _, job in seen if job == one["job_id"]}


def test_a_job_that_runs_is_not_started_again(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "a" / "disk.raw", seed=1, data_mib=100, size_bytes=100 * MIB)
    line.set_up("nightly", "--compression", "high")
    first = line.start_job()
    line("job", "run", "nightly", "--json", expect=5)
    assert line.wait_for_end(first["session_id"])["result"] == "success"


def test_a_named_machine_that_is_missing_fails_and_the_others_are_kept(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "system.raw", seed=1, data_mib=1)
    line.set_up()
    line("job", "create", "two", "--hypervisor", "lab", "--machine", "web", "--machine", "gone", "--repository", "main")
    done = line.run_job("two", expect=3)
    assert done["result"] == "failed"
    assert [point["machine"] for point in line.points("two")] == ["web"]
