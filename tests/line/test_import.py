"""Repositories that are taken in from their files alone, whole or not, and reconciled after changes by hand."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.line.test_bad_files import SLOTS
from vbrcore.backupfile.file import open_file
from vbrcore.storage.local import LocalStorage

MIB = 1024 * 1024
IDENTITY = "vbrcore-repository.json"


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def backed_up(line: Any, make_disk: Any) -> Any:
    """Two jobs: three points of one machine, one of another. The inventory then forgets jobs and repository."""
    web = make_disk(line.lab / "web" / "disk.raw", seed=1, data_mib=3, size_bytes=8 * MIB)
    make_disk(line.lab / "db" / "disk.raw", seed=2, data_mib=1, size_bytes=2 * MIB)
    line.set_up(machine="web")
    line.add_job("other", machine="db")
    for number in range(3):
        with web.open("r+b") as file:
            file.seek(number * MIB)
            file.write(b"%d" % number * 4096)
        shutil.copy(web, line.out / f"web-{number}.raw")
        line.run_job()
    line.run_job("other")
    return line


def forget(line: Any) -> list[str]:
    """Remove jobs and repository from the inventory, as a new home would know none; return the ids of all points."""
    ids = [point["point_id"] for point in line.json("point", "list")]
    for job in line.json("job", "list"):
        line("job", "delete", job["name"])
    line("repository", "remove", "main")
    return ids


def chains(reply: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {chain["job"]: chain for chain in reply["chains"]}


def test_points_machines_and_names_come_from_the_files_alone(backed_up: Any) -> None:
    line = backed_up
    before = [point["point_id"] for point in line.points()]
    repository_id = line.json("repository", "show", "main")["repository_id"]
    line.refused("already_exists", "repository", "import", line.repository, "--name", "again")
    line.refused("already_exists", "repository", "import", line.repository, "--name", "main")
    everything = forget(line)
    reply = line.json("repository", "import", line.repository, "--name", "second", "--reserve", "1M")
    assert (reply["name"], reply["repository_id"]) == ("second", repository_id)
    found = chains(reply)
    assert set(found) == {"nightly", "other"}
    nightly = found["nightly"]
    assert (nightly["machines"], nightly["points"], nightly["whole_points"]) == (["web"], 3, 3)
    assert (nightly["missing_files"], nightly["damaged_points"], nightly["sealed"]) == ([], [], False)
    listed = line.json("point", "list")
    assert {point["point_id"] for point in listed} == set(everything)
    assert {point["repository"] for point in listed} == {"second"}
    assert all(point["whole"] for point in listed)
    for number, point_id in enumerate(before):
        assert sha256(line.restore(point_id, "disk.raw")) == sha256(line.out / f"web-{number}.raw")
    line.refused("already_exists", "repository", "import", line.repository, "--name", "third")
    copy = line.repository.with_name("copy")
    shutil.copytree(line.repository, copy)
    line.refused("already_exists", "repository", "import", copy, "--name", "copy")
    (copy / IDENTITY).unlink()
    assert "copy" in line.refused("already_exists", "repository", "import", copy, "--name", "copy")["message"]
    assert not (copy / IDENTITY).exists()
    assert [one["name"] for one in line.json("repository", "list") if one["name"] != "default"] == ["second"]


def test_a_lost_identity_and_lost_files(backed_up: Any) -> None:
    line = backed_up
    first, second, third = (point["point_id"] for point in line.points())
    forget(line)
    (line.repository / IDENTITY).unlink()
    directory = next(path for path in line.repository.iterdir() if path.name.startswith("nightly_"))
    files = sorted(directory.glob("*.inc.vbf"))
    lost = files[0]  # the second point, and what the third took from it
    file_id = open_file(LocalStorage(directory), lost.name).file_id.hex()
    lost.rename(line.out / lost.name)
    with files[1].open("r+b") as file:  # one slot is enough
        file.seek(SLOTS[0])
        file.write(bytes(4096))
    reply = line.json("repository", "import", line.repository, "--name", "main", "--reserve", "1M")
    assert (line.repository / IDENTITY).exists()
    nightly = chains(reply)["nightly"]
    assert nightly["missing_files"] == [file_id]
    assert (nightly["points"], nightly["whole_points"]) == (2, 1)
    (damaged,) = nightly["damaged_points"]
    assert (damaged["point_id"], damaged["machine"]) == (third, "web")
    assert f"disk.raw lacks {MIB} bytes at {MIB}+{MIB}" in damaged["reason"]
    listed = {point["point_id"]: point for point in line.json("point", "list")}
    assert second not in listed
    assert (listed[first]["whole"], listed[third]["whole"]) == (True, False)
    assert listed[third]["reason"] == damaged["reason"]
    assert sha256(line.restore(first, "disk.raw")) == sha256(line.out / "web-0.raw")
    line.refused("data_corrupt", "restore", "disk", third, "disk.raw", "--output", line.out / "no.raw")
    # A session goes on with the chain, and gives nothing back while the file is missing.
    sizes = {path.name: path.stat().st_size for path in directory.glob("*.vbf")}
    line.add_job("again", "--map-chain", directory.name, "--keep", "3", machine="web")
    done = line.run_job("again")
    assert done["result"] == "warning"
    assert all((directory / name).stat().st_size >= size for name, size in sizes.items())
    points = {point["point_id"]: point["whole"] for point in line.points("again")}
    assert points[third] is True, "what the machine still has was read again"
    assert sha256(line.restore(third, "disk.raw")) == sha256(line.out / "web-2.raw")
    (line.out / lost.name).rename(lost)
    reply = line.json("repository", "rescan", "main")
    assert reply["added"] == [second]
    assert chains(reply)["again"]["missing_files"] == []
    assert all(point["whole"] for point in line.json("point", "list"))
    assert sha256(line.restore(second, "disk.raw")) == sha256(line.out / "web-1.raw")


def test_rescan_reconciles_what_was_moved_added_and_deleted(backed_up: Any) -> None:
    line = backed_up
    points = [point["point_id"] for point in line.points()]
    (other,) = [point["point_id"] for point in line.points("other")]
    quiet = line.json("repository", "rescan", "main")
    assert (quiet["added"], quiet["removed"], quiet["moved"], quiet["skipped"]) == ([], [], [], [])
    directory = next(path for path in line.repository.iterdir() if path.name.startswith("nightly_"))
    moved = directory.with_name("elsewhere")
    directory.rename(moved)
    shutil.rmtree(next(path for path in line.repository.iterdir() if path.name.startswith("other_")))
    reply = line.json("repository", "rescan", "main")
    assert set(reply["moved"]) == set(points)
    assert reply["removed"] == [other]
    assert any("job nightly is gone" in warning for warning in reply["warnings"])
    line("verify", points[1])
    assert line.json("job", "map", "nightly", "--directory", "elsewhere")["directory"] == "elsewhere"
    assert line.run_job()["result"] == "success"
    assert [point["kind"] for point in line.points()] == ["full", "increment", "increment", "increment"]
    max(moved.glob("*.inc.vbf")).unlink()
    assert len(line.json("repository", "rescan", "main")["removed"]) == 1
    # A chain that is being written is passed over.
    lock = LocalStorage(line.repository).lock("elsewhere/chain.lock")
    assert line.json("repository", "rescan", "main")["skipped"] == ["elsewhere"]
    lock.release()
    assert len(line.points()) == 3


def test_what_is_no_repository_is_refused_and_stays_as_it_is(line: Any) -> None:
    before = [one["repository_id"] for one in line.json("repository", "list")]
    empty = line.out / "empty"
    empty.mkdir()
    line.refused("no_backups_found", "repository", "import", empty, "--name", "main")
    assert list(empty.iterdir()) == []
    (empty / "letter.txt").write_text("hello")
    line.refused("no_backups_found", "repository", "import", empty, "--name", "main")
    line.refused("invalid_value", "repository", "import", empty / "letter.txt", "--name", "main")
    line.refused("invalid_value", "repository", "import", empty / "absent", "--name", "main")
    (empty / IDENTITY).write_text("{")
    line.refused("invalid_value", "repository", "import", empty, "--name", "main")
    (empty / IDENTITY).unlink()
    chain = empty / "chain"
    chain.mkdir()
    (chain / "letter.vbf").write_text("no backup file")
    line.refused("invalid_value", "repository", "import", empty, "--name", "a/b")
    line.refused("invalid_value", "repository", "import", empty, "--name", "main", "--slots", "0")
    line.refused("not_found", "repository", "rescan", "nobody")
    line.refused("usage", "repository", "import", empty)
    assert sorted(path.name for path in empty.rglob("*")) == ["chain", "letter.txt", "letter.vbf"]
    assert [one["repository_id"] for one in line.json("repository", "list")] == before
    reply = line.json("repository", "import", empty, "--name", "main")
    assert reply["chains"][0]["points"] == 0
    assert "letter.vbf" in reply["chains"][0]["unreadable_files"][0]


def test_encrypted_chains_are_taken_in_without_key_and_open_with_it(line: Any, make_disk: Any, tmp_path: Path) -> None:
    passphrase, wrong = tmp_path / "passphrase", tmp_path / "wrong"
    passphrase.write_text("correct horse, battery staple\n")
    wrong.write_text("another\n")
    disk = make_disk(line.lab / "web" / "disk.raw", seed=4, data_mib=2, size_bytes=4 * MIB)
    line("hypervisor", "add", "lab", "--plugin", "images", "--set", f"path={line.lab}")
    options = ("--reserve", "1M", "--encrypt", "--passphrase-file", passphrase)
    line("repository", "add", "main", "--path", line.repository, *options)
    line.add_job("nightly")
    line.run_job()
    (point,) = forget(line)
    name = ("--name", "main", "--reserve", "1M")
    line.refused("wrong_passphrase", "repository", "import", line.repository, *name, "--passphrase-file", wrong)
    (chain,) = line.json("repository", "import", line.repository, *name)["chains"]
    assert (chain["sealed"], chain["encrypted"], chain["machines"], chain["points"]) == (True, True, [], 1)
    assert line.json("point", "list")[0]["machine"] == ""
    line("verify", point)  # checksums need no key
    create = ("job", "create", "again", "--hypervisor", "lab", "--machine", "*", "--repository", "main")
    line.refused("key_needed", *create)
    line.refused("wrong_passphrase", "repository", "rescan", "main", "--passphrase-file", wrong)
    reply = line.json("repository", "rescan", "main", "--passphrase-file", passphrase)
    assert reply["chains"][0]["machines"] == ["web"]
    line.refused("already_exists", "repository", "rescan", "main", "--passphrase-file", passphrase)
    assert line.json("point", "list")[0]["machine"] == "web"
    assert sha256(line.restore(point, "disk.raw")) == sha256(disk)
    line("repository", "remove", "main")
    (chain,) = line.json("repository", "import", line.repository, *name, "--passphrase-file", passphrase)["chains"]
    assert (chain["sealed"], chain["machines"], chain["job"]) == (False, ["web"], "nightly")
    line(*create, "--map-chain", chain["directory"])
    assert line.run_job("again")["result"] == "success"
    assert [one["kind"] for one in line.points("again")] == ["full", "increment"]
    line("health", "check", "again", "--deep")
    plain = line.repository.with_name("plain")
    line("repository", "add", "plain", "--path", plain, "--reserve", "1M")
    line("job", "create", "open", "--hypervisor", "lab", "--machine", "*", "--repository", "plain")
    line.run_job("open")
    line("job", "delete", "open")
    line("repository", "remove", "plain")
    line.refused("not_encrypted", "repository", "import", plain, "--name", "plain", "--passphrase-file", passphrase)
