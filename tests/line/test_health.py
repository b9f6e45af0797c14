"""Health checks with real processes: damage of every kind is named, healed by the next session, or said to be lost."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.line.test_bad_files import MIB, OTHER, SLOTS, Chain, two_points
from tests.line.test_encryption import set_key
from vbrcore.backupfile.file import open_file
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import DamageFound
from vbrcore.storage.local import LocalStorage


@pytest.fixture(scope="module")
def shared_line(shared_line: Any) -> Any:
    shared_line.set_up("unused", machine="unused")
    return shared_line


@pytest.fixture
def chain(shared_line: Any, make_disk: Any) -> Chain:
    return two_points(shared_line, make_disk)


def checked(line: Any, *args: str) -> Any:
    """Return the report of a check that finds nothing."""
    summary: dict[str, Any] = line.json("health", "check", *args)
    return summary["report"]["chains"][0]


def found(line: Any, *args: str) -> Any:
    """Return the report of the one chain in which a check must find damage."""
    done = line.vbr("health", "check", *args, "--json", exit_code=DamageFound.exit_code)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert json.loads(done.stderr.splitlines()[-1])["error"]["code"] == "damage_found"
    assert summary["result"] == "failed"
    session = line.session(summary["session_id"])
    assert session["kind"] == "health"
    assert session["report"] == summary["report"]
    (report,) = summary["report"]["chains"]
    return report


def ids(chain: Chain) -> list[str]:
    return [point["point_id"] for point in chain.line.points(chain.job)]


def block(chain: Chain, number: int, point: int = -1, disk: str = "disk.raw") -> bytes:
    root = chain.root(disk, point)
    return chain.child(chain.child(root) if disk == "disk.raw" else root, number)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_sound_is_read_once_and_nothing_is_found(chain: Chain) -> None:
    line = chain.line
    stored = sum(path.stat().st_size for path in chain.files())
    for options in ((), ("--deep",), ("--point", ids(chain)[0])):
        report = checked(line, chain.job, *options)
        assert (report["finding_count"], report["point_count"], report["files"]) == (0, 0, [])
        assert 4 * MIB * 0.4 < report["read_bytes"] <= stored
    assert all(point["whole"] for point in line.points(chain.job))
    assert "no damage" in line("health", "check", chain.job)


def test_a_damaged_block_is_named_everywhere_and_the_next_session_heals_all_points(chain: Chain) -> None:
    line = chain.line
    spoilt = block(chain, 1)
    file = chain.spoil(spoilt)
    report = found(line, chain.job)
    (finding,) = report["findings"]
    assert (finding["digest"], finding["what"]) == (spoilt.hex(), "block")
    assert finding["file"].endswith(file.name)
    assert finding["places"] == [
        {
            "machine": chain.job,
            "disk": "disk.raw",
            "ranges": [[MIB, MIB]],
            "range_count": 1,
            "points": ids(chain),
        }
    ]
    assert report["marked"] == 1
    points = line.points(chain.job)
    assert [point["whole"] for point in points] == [False, False]
    assert f"disk.raw is damaged at {MIB}+{MIB}" in points[0]["reason"]
    assert found(line, chain.job)["marked"] == 0
    text = line.vbr("health", "check", chain.job, exit_code=DamageFound.exit_code)
    assert f"{chain.job}/disk.raw at {MIB}+{MIB}, in points {' '.join(ids(chain))}" in text.stdout
    assert "error: " in text.stderr
    done = line.run_job(chain.job)
    assert done["result"] == "success"
    assert done["transferred_bytes"] < 2 * MIB, "the damaged range was read again, and no more sent"
    checked(line, chain.job, "--deep")
    assert all(point["whole"] for point in line.points(chain.job))
    assert sha256(line.restore(ids(chain)[1], "disk.raw")) == sha256(chain.machine / "disk.raw")


def test_pages_and_configurations_are_healed_too(chain: Chain) -> None:
    line = chain.line
    root = chain.root("disk.raw")
    chain.spoil(chain.child(root))
    chain.spoil(chain.root(OTHER))
    report = found(line, chain.job, "--deep")
    assert {one["what"] for one in report["findings"]} == {"page"}
    places = {one["places"][0]["disk"]: one["places"][0]["ranges"] for one in report["findings"]}
    assert places == {"disk.raw": [[0, 256 * MIB]], OTHER: [[0, 3 * MIB]]}
    assert line.run_job(chain.job)["result"] == "success"
    checked(line, chain.job)
    for disk in ("disk.raw", OTHER):
        assert sha256(line.restore(ids(chain)[1], disk)) == sha256(chain.machine / disk)


def test_what_the_machine_no_longer_has_is_said_to_be_lost(chain: Chain) -> None:
    line = chain.line
    full, increment = ids(chain)
    chain.spoil(block(chain, 2, 0))  # only the full has it
    chain.spoil(block(chain, 1))
    report = found(line, chain.job)
    assert report["finding_count"] == 2
    done = line.run_job(chain.job)
    assert done["result"] == "warning"
    session = line.session(done["session_id"])
    (warning,) = session["warnings"]
    assert full in warning
    assert f"disk.raw is damaged at {2 * MIB}+{MIB}" in warning
    assert [point["point_id"] for point in session["report"]["chains"][0]["points"]] == [full]
    assert [point["whole"] for point in line.points(chain.job)] == [False, True, True]
    report = found(line, chain.job)
    assert [point["point_id"] for point in report["points"]] == [full]
    assert report["marked"] == 0
    line("health", "check", chain.job, "--point", increment)
    assert found(line, chain.job, "--point", full)["points"][0]["disks"][0]["ranges"] == [[2 * MIB, MIB]]
    line("point", "delete", full)
    checked(line, chain.job)
    assert line.run_job(chain.job)["result"] == "success"


def test_a_machine_that_is_gone_loses_what_was_damaged(chain: Chain, make_disk: Any) -> None:
    line = chain.line
    job = f"{chain.job}-two"
    for name in (f"{job}-stays", f"{job}-goes"):
        make_disk(line.lab / name / "disk.raw", seed=len(name), data_mib=1, size_bytes=2 * MIB)
    line.add_job(job, machine=f"{job}-*")
    line.run_job(job)
    two = Chain(line, job)
    gone = next(point for point in line.points(job) if point["machine"].endswith("goes"))
    with_ids = {point["point_id"]: number for number, point in enumerate(line.points(job))}
    two.spoil(two.child(two.root("disk.raw", with_ids[gone["point_id"]])))
    for left in (line.lab / gone["machine"]).iterdir():
        left.unlink()
    (line.lab / gone["machine"]).rmdir()
    assert [one["machine"] for one in found(line, job)["points"]] == [gone["machine"]]
    done = line.run_job(job)
    assert gone["point_id"] in " ".join(line.session(done["session_id"])["warnings"])
    assert [one["point_id"] for one in found(line, job)["points"]] == [gone["point_id"]]


def test_a_missing_file_and_a_damaged_table_and_slots_are_named(chain: Chain) -> None:
    line = chain.line
    (full,), (increment,) = chain.files(".full.vbf"), chain.files(".inc.vbf")
    before = increment.read_bytes()
    part = open_file(chain.storage, f"{chain.directory}/{increment.name}").contents.tables[0]
    with increment.open("r+b") as file:
        file.seek(part.offset + 64 + 7)
        file.write(b"?")
    report = found(line, chain.job)
    assert [one["file"] for one in report["files"]] == [f"{chain.directory}/{increment.name}"]
    assert "table" in report["files"][0]["problem"]
    assert [one["point_id"] for one in report["points"]] == ids(chain)[1:]
    increment.write_bytes(before[:100_000])
    assert "increment" not in found(line, chain.job)["points"]
    with increment.open("r+b") as file:
        for offset in SLOTS:
            file.seek(offset + 50)
            file.write(b"spoilt")
    report = found(line, chain.job)
    assert any(increment.name in one["file"] for one in report["files"])
    increment.write_bytes(before)
    file_id = open_file(chain.storage, f"{chain.directory}/{full.name}").file_id.hex()
    away = line.out / full.name
    full.rename(away)
    report = found(line, chain.job)
    assert {"file": file_id, "problem": "missing"} in report["files"]
    assert [one["point_id"] for one in report["points"]] == ids(chain)[1:]
    away.rename(full)
    checked(line, chain.job, "--deep")


def test_a_chain_of_which_nothing_is_left_is_damage_too(chain: Chain) -> None:
    line = chain.line
    away = line.out / "away"
    away.mkdir()
    for path in chain.files():
        path.rename(away / path.name)
    report = found(line, chain.job)
    assert [one["point_id"] for one in report["points"]] == ids(chain)
    assert report["files"][0]["file"] == chain.directory
    assert not any(point["whole"] for point in line.points(chain.job))
    for path in away.iterdir():
        path.rename(line.repository / chain.directory / path.name)
    away.rmdir()
    checked(line, chain.job)
    assert all(point["whole"] for point in line.points(chain.job))


def test_a_healed_table(chain: Chain) -> None:
    line = chain.line
    (increment,) = chain.files(".inc.vbf")
    part = open_file(chain.storage, f"{chain.directory}/{increment.name}").contents.tables[0]
    with increment.open("r+b") as file:
        file.seek(part.offset + 64 + 7)
        file.write(b"?")
    found(line, chain.job)
    line.run_job(chain.job)
    newest = ids(chain)[-1]
    assert sha256(line.restore(newest, "disk.raw")) == sha256(chain.machine / "disk.raw")
    assert newest not in {one["point_id"] for one in found(line, chain.job)["points"]}


def test_bad_input_is_refused(chain: Chain) -> None:
    line = chain.line
    line.refused("not_found", "health", "check", "nobody")
    line.refused("not_found", "health", "check", chain.job, "--point", "nothing")
    line.refused("not_found", "health", "check", "unused")  # it has no backups
    stranger = line.json("point", "list")[0]
    if stranger["job"] != chain.job:
        line.refused("invalid_value", "health", "check", chain.job, "--point", stranger["point_id"])
    line.refused("invalid_value", "health", "schedule", chain.job, "--days", "someday")
    line.refused("invalid_value", "health", "schedule", chain.job, "--days", "sat", "--time-zone", "Mars/Base")
    line.refused("usage", "health", "schedule", chain.job)
    line.refused("usage", "health", "schedule", chain.job, "--days", "sat", "--none")
    line.refused("not_found", "health", "schedule", "nobody", "--days", "sat")


def test_a_scheduled_check_follows_the_session_once_a_day(chain: Chain) -> None:
    line = chain.line
    everyday = "mon,tue,wed,thu,fri,sat,sun"
    view = line.json("health", "schedule", chain.job, "--days", everyday, "--time-zone", "UTC")
    assert view["health"] == {"days": everyday, "deep": False, "zone": "UTC"}
    chain.spoil(block(chain, 1))
    check = _wait_for_check(line, chain.job, 1)
    assert check["result"] == "failed"
    assert check["error"]["code"] == "damage_found"
    day = time.gmtime(time.time()).tm_mday
    line.run_job(chain.job)
    line.run_job(chain.job)
    time.sleep(2.5)
    checks = _checks(line, chain.job)
    assert len(checks) == 1 or day != time.gmtime(time.time()).tm_mday
    assert line.json("health", "schedule", chain.job, "--none")["health"]["days"] == ""


def _checks(line: Any, job: str) -> list[dict[str, Any]]:
    return [one for one in line.json("session", "list", "--job", job) if one["kind"] == "health"]


def _wait_for_check(line: Any, job: str, count: int) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        checks = _checks(line, job)
        if len(checks) >= count and checks[0]["state"] == "ended":
            return checks[0]
        time.sleep(0.3)
    message = f"no check of {job} began: {checks}"
    raise AssertionError(message)


def test_a_read_only_repository_is_checked_and_its_damage_not_marked(chain: Chain) -> None:
    if os.geteuid():
        pytest.skip("only root may mount a file system")
    line = chain.line
    chain.spoil(block(chain, 1))
    _run("mount", "--bind", line.repository, line.repository)
    try:
        _run("mount", "-o", "remount,ro,bind", line.repository)
        report = found(line, chain.job)
        assert (report["finding_count"], report["marked"]) == (1, 0)
        session = line.session(line.json("session", "list", "--job", chain.job)[0]["session_id"])
        assert any("could not be marked" in warning for warning in session["warnings"])
    finally:
        _run("umount", "--lazy", line.repository)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)


def test_a_check_beside_a_backup_waits_only_to_mark(chain: Chain, make_disk: Any) -> None:
    """The chain is written while it is read: what is being appended is not looked at, and no damage is invented."""
    line = chain.line
    make_disk(line.lab / chain.job / "large.raw", seed=9, data_mib=96, size_bytes=96 * MIB)
    started = line.start_job(chain.job)
    for _ in range(3):
        checked(line, chain.job, "--deep")
    assert line.wait_for_end(started["session_id"])["result"] == "success"
    checked(line, chain.job, "--deep")


def test_encrypted_chains_are_checked_without_key_and_deep_with_it(line: Any, make_disk: Any, tmp_path: Path) -> None:
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse, battery staple\n")
    make_disk(line.lab / "web" / "disk.raw", seed=4, data_mib=3, size_bytes=8 * MIB)
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    options = ("--reserve", "1M", "--encrypt", "--passphrase-file", passphrase)
    line("repository", "add", "main", "--path", line.repository, *options)
    line.add_job("nightly")
    line.run_job()
    point = line.points()[0]
    checked(line, "nightly", "--deep")
    chain = object.__new__(Chain)
    chain.line, chain.job, chain.machine = line, "nightly", line.lab / "web"
    chain.storage = LocalStorage(line.repository)
    chain.directory = next(path.name for path in line.repository.iterdir() if path.is_dir())
    with ChainReader.open(chain.storage, chain.directory) as reader:
        root = reader.points[0].disks[0].root
    chain.spoil(chain.child(root, 1))
    set_key(line, "")
    line.refused("key_needed", "health", "check", "nightly", "--deep")
    report = found(line, "nightly")
    assert report["findings"][0]["places"][0]["points"] == [point["point_id"]]
    assert report["findings"][0]["places"][0]["disk"] == "disk.raw"
    assert report["marked"] == 1
    set_key(line, "another")
    line.refused("wrong_passphrase", "health", "check", "nightly", "--deep")
    set_key(line, "correct horse, battery staple")
    assert found(line, "nightly", "--deep")["finding_count"] == 1
    assert line.run_job()["result"] == "success"
    checked(line, "nightly", "--deep")
    assert sha256(line.restore(point["point_id"], "disk.raw")) == sha256(line.lab / "web" / "disk.raw")


def test_a_check_can_be_stopped(chain: Chain, make_disk: Any) -> None:
    line = chain.line
    make_disk(line.lab / chain.job / "large.raw", seed=9, data_mib=64, size_bytes=64 * MIB)
    line.run_job(chain.job)
    with line.vbr.start("health", "check", chain.job, "--deep", "--json") as command:
        deadline = time.monotonic() + 30
        session: dict[str, Any] = {}
        while not session and time.monotonic() < deadline:
            live = [one for one in _checks(line, chain.job) if one["state"] != "ended"]
            session = live[0] if live else {}
        line.vbr("job", "stop", session["session_id"], "--now", exit_code=None)
        command.wait(60)
    ended = line.wait_for_end(session["session_id"])
    assert ended["result"] in {"failed", "success"}  # it may have been too quick
    if ended["result"] == "failed":
        assert ended["error"]["code"] == "session_stopped"
    checked(line, chain.job)
