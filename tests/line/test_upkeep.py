"""Space given back, fulls, chains per machine: what sessions do to chains, seen from outside."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.catalog.catalog import Catalog
from vbrcore.chain.files import read_files
from vbrcore.chain.listing import list_chains
from vbrcore.storage.repository import open_repository, read_identity

MIB = 1024 * 1024
EVERY_DAY = "mon,tue,wed,thu,fri,sat,sun"


def rewrite(disk: Path, seed: int, size_bytes: int) -> None:
    """Give a disk contents of which nothing is left from before."""
    disk.write_bytes(
        b"".join((seed * 1_000_000 + block).to_bytes(8, "big") * 8192 for block in range(size_bytes // 65536))
    )


def report(line: Any, session: dict[str, Any]) -> dict[str, Any]:
    """Return what the session did to the job's one chain; where there was nothing to be done it says nothing."""
    chains = line.session(session["session_id"])["report"]["upkeep"]
    assert len(chains) <= 1
    done: dict[str, Any] = next(iter(chains.values()), {})
    return done


def set_back(repository: Path, days: float) -> None:
    """Make all backup files of a repository as old as if their sessions had run days ago."""
    storage = open_repository(repository, read_identity(repository).repository_id)
    for directory in list_chains(storage):
        for file in read_files(storage, directory).files:
            writer = FileWriter.modify(storage, file, lambda: None)
            created = file.contents.created - days * 86400
            writer.commit(msgspec.structs.replace(file.contents, created=created), file.gone, both=True)
            writer.close()


def test_what_is_forgotten_gives_its_space_back(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=MIB)
    line.set_up("nightly", "--keep", "3", "--compression", "none")
    hashes = []
    for number in range(6):
        rewrite(disk, number, 4 * MIB)
        hashes.append(sha256(disk))
        done = line.run_job()
    shown = line.json("repository", "show", "main")
    assert shown["class"] in {"clone", "punch", "copy"}
    # The first file still holds what never changed: the machine's configuration.
    assert [path.name.split(".", 1)[1] for path in sorted(line.repository.rglob("*.vbf"))] == [
        "base.vbf",
        *["inc.vbf"] * 3,
    ]
    assert 12 * MIB <= shown["live_bytes"] <= shown["stored_bytes"] <= shown["live_bytes"] * 1.05 + 3 * 256 * 1024
    given_back = report(line, done)["given_back"]
    assert given_back["freed_bytes"] >= 4 * MIB
    assert given_back["warnings"] == []
    points = [point["point_id"] for point in line.points()]
    assert [sha256(line.restore(point, "disk.raw")) for point in points] == hashes[-3:]


def test_a_synthetic_full_needs_nothing_older(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=4 * MIB)
    line.set_up()
    line.run_job()
    with disk.open("r+b") as file:
        file.write(b"changed")
    done: dict[str, Any] = msgspec.json.decode(line("job", "full", "nightly", "--synthetic", "--json").splitlines()[-1])
    made = report(line, done)["synthetic_full"]
    assert made["moved_bytes"] or made["clone_calls"]
    points = line.points()
    assert [point["kind"] for point in points] == ["full", "full"]
    expected = sha256(disk)
    with disk.open("r+b") as file:
        file.write(b"changed again")
    line.run_job()
    assert [point["kind"] for point in line.points()] == ["full", "full", "increment"]
    newest = line.points()[-1]["point_id"]
    remove_older_generations(line.repository)
    assert sha256(line.restore(points[1]["point_id"], "disk.raw")) == expected
    assert sha256(line.restore(newest, "disk.raw")) == sha256(disk)


def remove_older_generations(repository: Path) -> None:
    """Remove all files but those of the newest generation of each chain."""
    storage = open_repository(repository, read_identity(repository).repository_id)
    for directory in list_chains(storage):
        files = read_files(storage, directory).files
        old = [file for file in files if file.slot.generation_id != files[-1].slot.generation_id]
        assert old
        for file in old:
            storage.remove(file.name)


def test_fulls_come_on_their_days(line: Any, make_disk: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=2 * MIB)
    line.set_up("nightly", "--synthetic-full", EVERY_DAY)
    for number in range(2):
        rewrite(disk, number, 2 * MIB)
        line.run_job()
    assert [point["kind"] for point in line.points()] == ["full", "increment"]
    set_back(line.repository, 2)
    done = line.run_job()
    assert report(line, done)["synthetic_full"]["warnings"] == []
    assert [point["kind"] for point in line.points()] == ["full", "increment", "full"]
    assert "synthetic_full" not in report(line, line.run_job())  # once a day
    line("job", "fulls", "nightly", "--active", EVERY_DAY)
    assert line.run_job()["read_bytes"] >= 0
    set_back(line.repository, 2)
    done = line.run_job()
    assert done["read_bytes"] == 2 * MIB
    assert line.points()[-1]["kind"] == "full"
    line("job", "fulls", "nightly", "--none")
    set_back(line.repository, 2)
    line.run_job()
    assert line.points()[-1]["kind"] == "increment"


def test_a_chain_for_each_machine(line: Any, make_disk: Any, sha256: Any) -> None:
    disks = {
        name: make_disk(line.lab / name / "disk.raw", seed=1, size_bytes=2 * MIB) for name in ("web", "db", "mail")
    }
    line.set_up("nightly", "--per-machine", "--keep", "3")
    for number in range(4):
        for name, disk in disks.items():
            rewrite(disk, number * 100 + len(name), 2 * MIB)
        line.run_job()
    points = line.points()
    assert len(points) == 9
    directories = {path.parent for path in line.repository.rglob("*.vbf")}
    assert len(directories) == 3
    assert {directory.name.rpartition("_")[0] for directory in directories} == set(disks)
    for name, disk in disks.items():
        newest = [point for point in points if point["machine"] == name][-1]
        assert sha256(line.restore(newest["point_id"], "disk.raw")) == sha256(disk)
    # A machine that was renamed goes on in its chain's directory: what it is known by is its id.
    assert line.json("job", "show", "nightly")["per_machine"] is True
    assert line.json("retention", "apply", "nightly")["result"] == "success"


def test_upkeep_waits_for_its_window_and_then_runs_by_itself(line: Any, make_disk: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=2 * MIB)
    line.set_up("nightly", "--keep", "3", "--compression", "none")
    now = datetime.now(UTC)
    begin, end = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (3, 6))
    line("job", "upkeep", "nightly", "--window", f"{begin}-{end}", "--zone", "UTC")
    for number in range(5):
        rewrite(disk, number, 2 * MIB)
        done = line.run_job()
    assert report(line, done) == {"postponed": True}
    assert len(line.points()) == 3
    before = line.json("repository", "show", "main")
    assert before["stored_bytes"] >= 10 * MIB
    open_, close = (f"{now + timedelta(hours=hours):%H:%M}" for hours in (-3, 3))
    line("job", "upkeep", "nightly", "--window", f"{open_}-{close}", "--zone", "UTC")
    deadline = time.monotonic() + 120
    while line.json("repository", "show", "main")["stored_bytes"] > 7 * MIB:
        assert time.monotonic() < deadline, line.json("session", "list")
        time.sleep(0.5)
    upkeep = [one for one in line.json("session", "list") if one["kind"] == "upkeep"]
    assert len(upkeep) == 1
    assert line.wait_for_end(upkeep[0]["session_id"])["result"] == "success"


def test_a_lost_capability_is_a_warning(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=MIB)
    line.set_up()
    line.run_job()
    found = line.json("repository", "show", "main")["class"]
    catalog = Catalog.open(line.home)
    try:
        catalog.update_repository(catalog.repository_by_name("main").repository_id, storage_class="clone")
    finally:
        catalog.close()
    done = line.run_job()
    lost = "has lost a capability of its storage: its class was clone"
    assert any(lost in warning for warning in line.session(done["session_id"])["warnings"]) == (found != "clone")
    assert line.json("repository", "show", "main")["class"] == found
    assert line.run_job()["result"] == "success"


def test_compact_moves_what_lives_together(line: Any, make_disk: Any, sha256: Any) -> None:
    disk = make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=4 * MIB)
    line.set_up("nightly", "--keep", "3")
    for number in range(5):
        with disk.open("r+b") as file:
            file.seek(number * MIB % (4 * MIB))
            file.write(f"change {number}".encode())
        line.run_job()
    expected = sha256(disk)
    for option in ((), ("--rewrite",)):
        done: dict[str, Any] = msgspec.json.decode(
            line("job", "compact", "nightly", *option, "--json").splitlines()[-1]
        )
        assert done["result"] == "success"
        assert report(line, done)["compacted"]["warnings"] == []
        assert sha256(line.restore(line.points()[-1]["point_id"], "disk.raw")) == expected
        (line.out / f"{line.points()[-1]['point_id']}-disk.raw.raw").unlink()
    assert len(list(line.repository.rglob("*.vbf"))) == 1
    line("verify", line.points()[0]["point_id"], "--deep")


def test_what_makes_no_sense_is_refused(line: Any, make_disk: Any) -> None:
    make_disk(line.lab / "web" / "disk.raw", seed=1, size_bytes=MIB)
    line.set_up()
    line.refused("invalid_value", "job", "fulls", "nightly", "--synthetic", "someday")
    line.refused("invalid_value", "job", "fulls", "nightly", "--active", "sat", "--full-zone", "Mars/Olympus")
    line.refused("usage", "job", "fulls", "nightly")
    line.refused("invalid_value", "job", "upkeep", "nightly", "--window", "25:00-06:00")
    line.refused("usage", "job", "upkeep", "nightly", "--window", "25:00")
    line.refused("not_found", "job", "compact", "weekly")
    line.refused("usage", "job", "full", "nightly", "--active", "--synthetic")
    line.refused("invalid_value", "repository", "add", "slow", "--path", line.out / "r", "--rate-limit", "1K")
    assert not (line.out / "r").exists()
