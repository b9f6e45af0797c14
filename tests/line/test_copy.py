"""Backup copies: points of one repository in a second one, as they are stored, with a retention of their own."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.rows import Row, unpack_row
from vbrcore.backupfile.tables import read_rows
from vbrcore.storage.local import LocalStorage

MIB = 1024 * 1024


class Sites:
    """A line with a second repository, and a job that copies into it."""

    def __init__(self, line: Any, root: Path) -> None:
        self.line = line
        self.second = root / "second"

    def set_up(self, *options: str | Path, keep: str = "14") -> None:
        line = self.line
        line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
        line("repository", "add", "main", "--path", line.repository, "--reserve", "1M", *options)
        line("repository", "add", "second", "--path", self.second, "--reserve", "1M", *options)
        line.add_job("nightly")
        self.add_copy("offsite", "--keep", keep)

    def add_copy(self, name: str, *options: str, source: str = "main", target: str = "second") -> None:
        where = ("--from-repository", source, "--repository", target)
        self.line("job", "create", name, *where, "--machine", "*", *options)

    def copy(self, expect: int | None = 0) -> dict[str, Any]:
        done: dict[str, Any] = self.line.run_job("offsite", expect=expect)
        return done

    def tasks(self, done: dict[str, Any]) -> list[dict[str, Any]]:
        tasks: list[dict[str, Any]] = self.line.session(done["session_id"])["tasks"]
        return tasks


@pytest.fixture
def sites(line: Any, tmp_path: Path) -> Sites:
    return Sites(line, tmp_path)


def rows_of(repository: Path) -> dict[bytes, Row]:
    """Return the row of every extent in a repository, by digest."""
    storage = LocalStorage(repository)
    found: dict[bytes, Row] = {}
    for path in repository.rglob("*.vbf"):
        name = str(path.relative_to(repository))
        reader = storage.open_reader(name)
        for part in open_file(storage, name).contents.tables:
            for packed in read_rows(reader, part):
                row, _ = unpack_row(packed)
                found[row.digest] = row
        reader.close()
    return found


def change(disk: Path, number: int) -> None:
    with disk.open("r+b") as file:
        file.seek(number * MIB + 100)
        file.write(f"change {number}".encode() * 1000)


def backed_up(sites: Sites, disks: list[Path], runs: int, sha256: Any) -> dict[tuple[str, str], str]:
    """Run the backup, with a change each time; return the disks' digests by (machine, point)."""
    found: dict[tuple[str, str], str] = {}
    for number in range(runs):
        for disk in disks:
            change(disk, number)
        sites.line.run_job()
        hashes = {disk.parent.name: sha256(disk) for disk in disks}
        for point in sites.line.points():
            found.setdefault((point["machine"], point["point_id"]), hashes[point["machine"]])
    return found


def test_points_are_copied_as_they_are_stored_and_restore_without_the_source(
    sites: Sites, make_disk: Any, sha256: Any
) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=6)
    db = make_disk(line.lab / "db" / "disk.raw", seed=2, data_mib=5)
    with db.open("r+b") as file, web.open("rb") as shared:
        file.write(shared.read(2 * MIB))  # blocks that both machines have
    sites.set_up()
    expected = backed_up(sites, [web, db], 3, sha256)
    done = sites.copy()
    assert done["result"] == "success"
    assert line.session(done["session_id"])["kind"] == "copy"
    source, copy = rows_of(line.repository), rows_of(sites.second)
    assert copy == source, "not the same extents, or not stored as they were"
    stored = sum(row.stored_length for row in source.values())
    assert stored <= int(done["stored_bytes"]) <= stored * 1.1 + MIB
    assert int(done["transferred_bytes"]) >= stored
    points = line.points("offsite")
    assert [(p["machine"], p["created"]) for p in points] == [(p["machine"], p["created"]) for p in line.points()]
    assert {p["repository"] for p in points} == {"second"}
    originals = list(expected)
    shutil.rmtree(line.repository)
    for point, original in zip(points, originals, strict=True):
        assert point["point_id"] != original[1]
        assert sha256(line.restore(point["point_id"], "disk.raw")) == expected[original]
        line("verify", point["point_id"], "--deep")


def test_the_next_copy_moves_what_is_new(sites: Sites, make_disk: Any, sha256: Any) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=8)
    idle = make_disk(line.lab / "idle" / "disk.raw", seed=2, data_mib=4)
    sites.set_up()
    backed_up(sites, [web, idle], 1, sha256)
    first = sites.copy()
    expected = backed_up(sites, [web], 2, sha256) if False else {}
    change(web, 3)
    line.run_job()
    second = sites.copy()
    assert int(second["transferred_bytes"]) < int(first["transferred_bytes"]) / 4
    assert int(second["read_bytes"]) < 2 * MIB
    third = sites.copy()
    assert (third["result"], int(third["transferred_bytes"]), int(third["stored_bytes"])) == ("success", 0, 0)
    assert sites.tasks(third) == []
    assert expected == {}
    newest = [point for point in line.points("offsite") if point["machine"] == "web"][-1]
    assert sha256(line.restore(newest["point_id"], "disk.raw")) == sha256(web)
