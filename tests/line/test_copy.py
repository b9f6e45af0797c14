"""Backup copies: points of one repository in a second one, as they are stored, with a retention of their own."""

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.line.test_deaths import find, slots_used
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.rows import KIND_BLOCK, Row, unpack_row
from vbrcore.backupfile.tables import read_rows
from vbrcore.storage.local import LocalStorage

pytestmark = pytest.mark.timeout(300)

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
    line("verify", points[-1]["point_id"], "--deep")


def test_the_next_copy_moves_what_is_new(sites: Sites, make_disk: Any, sha256: Any) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=8)
    make_disk(line.lab / "idle" / "disk.raw", seed=2, data_mib=4)
    sites.set_up()
    line.run_job()
    first = sites.copy()
    change(web, 3)
    line.run_job()
    second = sites.copy()
    assert int(second["transferred_bytes"]) < int(first["transferred_bytes"]) / 4
    assert int(second["read_bytes"]) < 2 * MIB
    third = sites.copy()
    assert (third["result"], int(third["transferred_bytes"]), int(third["stored_bytes"])) == ("success", 0, 0)
    assert sites.tasks(third) == []
    newest = [point for point in line.points("offsite") if point["machine"] == "web"][-1]
    assert sha256(line.restore(newest["point_id"], "disk.raw")) == sha256(web)
    # What is copied from the second repository into the first is what did not come from there.
    sites.add_copy("back", source="second", target="main")
    assert line.run_job("back")["result"] == "success"
    assert line.points("back") == []


def test_a_copy_keeps_what_its_own_policy_says(sites: Sites, make_disk: Any, sha256: Any) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=3)
    sites.set_up(keep="3")
    expected = backed_up(sites, [web], 4, sha256)
    sites.copy()
    created = [point["created"] for point in line.points()]
    assert [point["created"] for point in line.points("offsite")] == created[-3:]
    change(web, 2)
    line.run_job()
    expected[("web", line.points()[-1]["point_id"])] = sha256(web)
    line.json("job", "retention", "offsite", "--keep", "4")
    sites.copy()  # the oldest of these four was copied before; the first of all stays away
    points = line.points("offsite")
    created = [point["created"] for point in line.points()]
    assert [point["created"] for point in points] == created[-4:]
    for point, known in zip(points, list(expected.values())[-4:], strict=True):
        assert sha256(line.restore(point["point_id"], "disk.raw")) == known
    line.json("job", "retention", "offsite", "--keep", "3")
    preview = line.json("retention", "preview", "offsite")
    assert [verdict["keep"] for verdict in preview] == [False, True, True, True]
    assert line.json("retention", "apply", "offsite")["result"] == "success"
    assert [point["point_id"] for point in line.points("offsite")] == [p["point_id"] for p in points[1:]]
    assert len(line.points()) == 5, "the source is not touched"
    longer = line.json("job", "retention", "offsite", "--keep", "5")
    assert longer["retention"]["keep_points"] == 5
    sites.copy()  # older ones come back, and stand where they belong
    assert [point["created"] for point in line.points("offsite")] == created
    assert [verdict["keep"] for verdict in line.json("retention", "preview", "offsite")] == [True] * 5


def test_an_encrypted_chain_is_copied_without_being_decrypted(
    sites: Sites, make_disk: Any, sha256: Any, tmp_path: Path
) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=4)
    first, second = tmp_path / "first-passphrase", tmp_path / "second-passphrase"
    first.write_text("of the first site\n")
    second.write_text("of the second site\n")
    sites.set_up("--encrypt", "--passphrase-file", first)
    line("repository", "passphrase", "second", "--passphrase-file", second)
    expected = list(backed_up(sites, [web], 2, sha256).values())
    assert sites.copy()["result"] == "success"
    change(web, 7)
    line.run_job()
    expected.append(sha256(web))
    done = sites.copy()
    assert done["result"] == "success"
    assert int(done["transferred_bytes"]) < 2 * MIB
    assert rows_of(sites.second) == rows_of(line.repository)
    names = b"".join(path.read_bytes() for path in sites.second.rglob("*.vbf"))
    assert b"disk.raw" not in names
    shutil.rmtree(line.repository)
    points = line.points("offsite")
    assert [point["machine"] for point in points] == ["web"] * 3
    for point, known in zip(points, expected, strict=True):
        assert sha256(line.restore(point["point_id"], "disk.raw")) == known
    line("verify", points[-1]["point_id"], "--deep")
    line("repository", "add", "open", "--path", tmp_path / "open", "--reserve", "1M")
    copy = ("job", "create", "mixed", "--machine", "*")
    for source, target in (("second", "open"), ("open", "second")):
        error = line.refused("invalid_value", *copy, "--from-repository", source, "--repository", target)
        assert "only second is encrypted" in error["message"]


def damage(repository: Path, name: bytes, *, files: int) -> None:
    """Flip a bit of an extent in the first `files` backup files that have it."""
    storage = LocalStorage(repository)
    for path in sorted(repository.rglob("*.vbf")):
        relative = str(path.relative_to(repository))
        reader = storage.open_reader(relative)
        found = [
            unpack_row(packed)
            for part in open_file(storage, relative).contents.tables
            for packed in read_rows(reader, part)
            if packed.startswith(name)
        ]
        reader.close()
        for row, offset in found[:files]:
            files -= 1
            with path.open("r+b") as file:
                file.seek(offset + 64 + row.stored_length // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
    assert files == 0, "there are not so many"


def blocks_of(repository: Path) -> set[bytes]:
    return {name for name, row in rows_of(repository).items() if row.kind == KIND_BLOCK}


def test_a_damaged_block_costs_only_points_that_need_it_and_is_found_elsewhere(
    sites: Sites, make_disk: Any, sha256: Any
) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=4)
    make_disk(line.lab / "db" / "disk.raw", seed=2, data_mib=2)
    sites.set_up()
    line.run_job()
    before = blocks_of(line.repository)
    good = web.read_bytes()
    change(web, 1)
    line.run_job()
    (new,) = blocks_of(line.repository) - before
    web.write_bytes(good)
    line.run_job()
    damage(line.repository, new, files=1)
    error = line.refused("session_failed", "job", "run", "offsite")
    (task,) = error["tasks"]
    assert (task["machine"], task["disk"]) == ("web", "disk.raw")
    assert task["code"] == "data_corrupt"
    assert new.hex()[:16] in task["message"]
    assert "no other file" in task["message"]
    copied = [(point["machine"], point["created"]) for point in line.points("offsite")]
    source = [(point["machine"], point["created"]) for point in line.points()]
    lost = [point for point in source if point not in copied]
    assert lost == [[point for point in source if point[0] == "web"][1]]
    # An active full has stored all of it anew, so where one file is damaged another has the block.
    line.json("job", "full", "nightly", "--active")
    both = blocks_of(line.repository)
    damage(line.repository, min(before & both), files=1)
    sites.add_copy("third")
    error = line.refused("session_failed", "job", "run", "third")
    assert len(error["tasks"]) == 1
    assert len(line.points("third")) == len(line.points()) - 1
    newest = [point for point in line.points("third") if point["machine"] == "web"][-1]
    assert sha256(line.restore(newest["point_id"], "disk.raw")) == sha256(web)


@pytest.mark.parametrize("wanted", ["copy", "target", "job-manager"])
def test_kill_9_of_a_process_of_a_copy_loses_nothing_and_the_next_one_goes_on(
    sites: Sites, make_disk: Any, sha256: Any, wanted: str
) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=60, size_bytes=64 * MIB)
    sites.set_up()
    expected = list(backed_up(sites, [web], 3, sha256).values())
    started = line.start_job("offsite")
    find(line, started["session_id"], "copy")
    if wanted == "job-manager":
        deadline = time.monotonic() + 60
        while not line.points("offsite") and time.monotonic() < deadline:
            time.sleep(0.02)
    os.kill(find(line, started["session_id"], wanted), signal.SIGKILL)
    ended = line.wait_for_end(started["session_id"])
    committed = line.points("offsite")
    if wanted == "job-manager":
        assert ended["result"] == "failed"
        assert committed
    else:
        assert ended["result"] == "success"
    done = sites.copy()
    assert done["result"] == "success"
    points = line.points("offsite")
    assert points[: len(committed)] == committed
    assert int(done["transferred_bytes"]) < 8 * MIB, "what was committed was moved again"
    for point, known in zip(points, expected, strict=True):
        assert sha256(line.restore(point["point_id"], "disk.raw")) == known
    assert slots_used(line) == 0


def test_a_point_that_goes_meanwhile_is_passed_over_and_what_is_read_stays(sites: Sites, make_disk: Any) -> None:
    line = sites.line
    for number, name in enumerate(("web", "db")):
        make_disk(line.lab / name / "disk.raw", seed=number, data_mib=2)
    sites.set_up()
    line.run_job()
    points = {point["machine"]: point["point_id"] for point in line.points()}
    line("repository", "add", "narrow", "--path", line.out / "narrow", "--reserve", "1M", "--slots", "1")
    sites.add_copy("slow", target="narrow")
    started = line.start_job("slow")
    mover = find(line, started["session_id"], "copy")
    os.kill(mover, signal.SIGSTOP)
    command = Path(f"/proc/{mover}/cmdline").read_bytes()
    waiting = "db" if b"web/disk.raw" in command else "web"
    line("point", "delete", points[waiting])
    os.kill(mover, signal.SIGCONT)
    ended = line.wait_for_end(started["session_id"])
    assert ended["result"] == "warning"
    (warning,) = ended["warnings"]
    assert points[waiting] in warning
    assert [point["machine"] for point in line.points("slow")] == [{"db": "web", "web": "db"}[waiting]]


def test_a_copy_beside_a_running_backup(sites: Sites, make_disk: Any, sha256: Any) -> None:
    line = sites.line
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=60, size_bytes=64 * MIB)
    sites.set_up()
    line.run_job()
    first = sha256(web)
    make_disk(web, seed=2, data_mib=60, size_bytes=64 * MIB)
    started = line.start_job()
    find(line, started["session_id"], "source")
    beside = sites.copy()
    assert (beside["result"], line.session(beside["session_id"])["warnings"]) == ("success", [])
    assert line.wait_for_end(started["session_id"])["result"] == "success"
    copied = line.points("offsite")
    assert sha256(line.restore(copied[0]["point_id"], "disk.raw")) == first
    sites.copy()
    assert sha256(line.restore(line.points("offsite")[-1]["point_id"], "disk.raw")) == sha256(web)


def test_a_chain_that_took_the_place_of_another_is_not_mixed_with_its_copy(sites: Sites, make_disk: Any) -> None:
    line = sites.line
    make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=1)
    sites.set_up()
    line.run_job()
    sites.copy()
    before = {str(path): path.read_bytes() for path in sites.second.rglob("*.vbf")}
    for path in line.repository.rglob("*.vbf"):
        path.unlink()
    line.run_job()
    assert "another chain" in line.refused("session_failed", "job", "run", "offsite")["message"]
    assert {str(path): path.read_bytes() for path in sites.second.rglob("*.vbf")} == before
    sites.add_copy("again")
    assert line.run_job("again")["result"] == "success"


def test_what_cannot_be_copied_is_refused(sites: Sites, make_disk: Any) -> None:
    line = sites.line
    make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=1)
    sites.set_up()
    create = ("job", "create", "other", "--machine", "*", "--repository", "second")
    line.refused("usage", *create)
    line.refused("usage", *create, "--hypervisor", "lab", "--from-repository", "main")
    copy = (*create, "--from-repository")
    line.refused("invalid_value", *copy, "second")
    line.refused("not_found", *copy, "elsewhere")
    line.refused("invalid_value", *copy, "main", "--quiesce")
    line.refused("invalid_value", *copy, "main", "--per-machine")
    line.refused("invalid_value", *copy, "main", "--compression", "high")
    line.refused("invalid_value", "job", "full", "offsite", "--active")
    line.refused("invalid_value", "job", "full", "offsite", "--synthetic")
    line.refused("in_use", "repository", "remove", "main")
    assert [job["name"] for job in line.json("job", "list")] == ["nightly", "offsite"]
    shown = line.json("job", "show", "offsite")
    assert (shown["from_repository"], shown["repository"], shown["hypervisor"]) == ("main", "second", "")
    assert "main" in line("job", "show", "offsite")
    nothing = sites.copy()
    assert nothing["result"] == "warning"  # the pattern matches no machine with a point
    line("job", "create", "named", "--from-repository", "main", "--repository", "second", "--machine", "nobody")
    assert "no point of nobody" in line.refused("session_failed", "job", "run", "named")["message"]
    line("job", "schedule", "offsite", "--every", "1h")
    line.run_job()
    shutil.move(line.repository, line.repository.with_name("unmounted"))
    line.refused("session_failed", "job", "run", "offsite")
    assert line.points("offsite") == []
