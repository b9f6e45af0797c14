"""What a job keeps, over several sessions of the whole line: what the preview says is what happens."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.clock import ClockReading
from vbrcore.model.retention import Retention

MIB = 1024 * 1024


def change(disk: Path, number: int) -> None:
    with disk.open("r+b") as file:
        file.seek(number * 4096)
        file.write(f"change {number}".encode())


def going(line: Any) -> list[str]:
    return [verdict["point_id"] for verdict in line.json("retention", "preview", "nightly") if not verdict["keep"]]


def test_the_newest_points_of_each_machine_stay_and_restore(line: Any, make_disk: Any, sha256: Any) -> None:
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=2 * MIB)
    make_disk(line.lab / "db" / "disk.raw", seed=2, size_bytes=2 * MIB)
    line.set_up("nightly", "--keep", "4")
    hashes: dict[str, str] = {}
    for number in range(6):
        if number == 4:
            (line.lab / "db" / "disk.raw").rename(line.lab / "db" / "disk.off")  # this machine fails from now on
        change(web, number)
        before = {point["point_id"] for point in line.points()}
        line.run_job(expect=None)
        for point in line.points():
            if point["point_id"] not in before and point["machine"] == "web":
                hashes[point["point_id"]] = sha256(web)
    points = line.points()
    assert [point["machine"] for point in points].count("web") == 4
    assert [point["machine"] for point in points].count("db") == 4
    assert [point["point_id"] for point in points if point["machine"] == "web"] == list(hashes)[-4:]
    assert going(line) == []
    for point_id in list(hashes)[-4:]:
        assert sha256(line.restore(point_id, "disk.raw")) == hashes[point_id]
        line("verify", point_id, "--deep")


def test_the_preview_says_what_then_happens(line: Any, make_disk: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=MIB)
    line.set_up("nightly", "--keep", "100")
    for number in range(5):
        change(disk, number)
        line.run_job()
    assert going(line) == []
    shown = line.json("job", "retention", "nightly", "--keep", "3")
    assert shown["retention"]["keep_points"] == 3
    verdicts = line.json("retention", "preview", "nightly")
    assert [verdict["keep"] for verdict in verdicts] == [False, False, True, True, True]
    assert [reason["code"] for reason in verdicts[0]["reasons"]] == ["expired"]
    assert verdicts[2]["reasons"][0] | {"text": ""} == {
        "code": "newest_points",
        "text": "",
        "until": None,
        "after_points": 1,
    }
    expected = [verdict["point_id"] for verdict in verdicts if verdict["keep"]]
    assert "stays" in line("retention", "preview", "nightly")
    done = line.json("retention", "apply", "nightly")
    assert done["result"] == "success"
    assert [point["point_id"] for point in line.points()] == expected
    log = line("session", "log", done["session_id"])
    assert "2 go" in log


def test_a_clock_that_ran_ahead_makes_rules_of_time_wait_until_it_is_confirmed(line: Any, make_disk: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=MIB)
    line.set_up("nightly", "--keep", "100")
    for number in range(5):
        change(disk, number)
        line.run_job()
    line("service", "stop")
    catalog = Catalog.open(line.home)
    seen = catalog.clock_seen()
    assert seen is not None
    assert abs(seen.time - time.time()) < 600
    catalog.set_clock_seen(ClockReading(seen.time - 3 * 86400, seen.uptime_s))
    catalog.close()
    line("job", "retention", "nightly", "--keep", "3", "--keep-weekly", "1")
    waiting = line.json("retention", "apply", "nightly")
    assert waiting["result"] == "warning"
    assert len(line.points()) == 5
    done = line.json("retention", "apply", "nightly", "--trust-clock")
    assert done["result"] == "success"
    assert len(line.points()) == 3
    assert line.json("retention", "apply", "nightly")["result"] == "success"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), Retention()),
        (("--keep-days", "7"), Retention(keep_points=0, keep_days=7)),
        (("--keep", "5", "--keep-days", "7"), Retention(keep_points=5, keep_days=7)),
        (
            ("--keep-weekly", "4", "--keep-monthly", "12", "--keep-yearly", "3", "--deleted-after-days", "30"),
            Retention(keep_weekly=4, keep_monthly=12, keep_yearly=3, deleted_after_days=30),
        ),
    ],
)
def test_what_a_job_is_told_to_keep(line: Any, options: tuple[str, ...], expected: Retention) -> None:
    line.set_up("nightly", *options, "--time-zone", "UTC")
    kept = line.json("job", "show", "nightly")["retention"]
    assert kept == json.loads(json.dumps({name: getattr(expected, name) for name in expected.__struct_fields__}))


def test_a_rule_that_cannot_be_is_refused(line: Any) -> None:
    line.set_up()
    line.refused("invalid_value", "job", "retention", "nightly", "--keep", "-1")
    line.refused("invalid_value", "job", "retention", "nightly", "--keep-days", "9999999")
    line.refused("invalid_value", "job", "retention", "nightly", "--keep", "3", "--time-zone", "Atlantis/Capital")
    line.refused("not_found", "retention", "preview", "daily")
    line.refused("not_found", "retention", "apply", "daily")
    assert line.json("job", "show", "nightly")["retention"]["keep_points"] == 14


def begun(file: Path) -> str:
    """Return the part of a backup file's name that it keeps when it has lost its last point."""
    return file.name.partition(".")[0]


def test_an_active_full_needs_nothing_older(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=3 * MIB)
    make_disk(line.lab / "db" / "disk.raw", seed=2, size_bytes=2 * MIB)
    line.set_up("nightly", "--keep", "3")
    first = line.run_job()
    change(disk, 1)
    line.run_job()
    older = {begun(file) for file in line.repository.rglob("*.vbf")}
    done = line.json("job", "full", "nightly", "--active")
    assert done["result"] == "success"
    assert int(done["stored_bytes"]) > int(first["stored_bytes"]) * 0.9
    assert {point["kind"] for point in line.points()[-2:]} == {"full"}
    change(disk, 2)
    again = line.run_job()
    assert int(again["stored_bytes"]) < int(first["stored_bytes"])
    points = line.points()
    assert {point["kind"] for point in points[-2:]} == {"increment"}
    newest = next(point["point_id"] for point in reversed(points) if point["machine"] == "web")
    lost = [file for file in line.repository.rglob("*.vbf") if begun(file) in older]
    assert len(lost) == len(older)
    for file in lost:  # the disk that held the old generation is lost
        file.unlink()
    assert sha256(line.restore(newest, "disk.raw")) == sha256(disk)
    line("verify", newest, "--deep")


def test_a_machine_that_an_active_full_left_out_is_read_whole_by_the_next_session(
    line: Any, make_disk: Any, sha256: Any
) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=2 * MIB)
    make_disk(line.lab / "db" / "disk.raw", seed=2, size_bytes=2 * MIB)
    line.set_up()
    line.run_job()
    disk.rename(disk.with_suffix(".off"))
    line("job", "full", "nightly", "--active", expect=None)
    disk.with_suffix(".off").rename(disk)
    assert line.run_job()["result"] == "success"
    newest = [point for point in line.points() if point["machine"] == "web"][-1]
    assert newest["kind"] == "full"
    assert sha256(line.restore(newest["point_id"], "disk.raw")) == sha256(disk)
