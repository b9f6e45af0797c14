"""Backup files that are damaged, of a later version, or none: each fails what needs them, and nothing else."""

import hashlib
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from vbrcore.chain.reader import ChainReader, Location
from vbrcore.storage.local import LocalStorage

MIB = 1024 * 1024
SLOTS = (0, 64 * 1024)
SLOT_BYTES = 4096
OTHER = "other.raw"


class Chain:
    """One job's backup files, to be looked into and spoilt."""

    def __init__(self, line: Any, job: str) -> None:
        self.line = line
        self.job = job  # also the name of its machine
        self.machine = line.lab / job
        self.storage = LocalStorage(line.repository)
        self.directory = next(path.name for path in line.repository.iterdir() if path.name.startswith(f"{job}_"))

    def files(self, ending: str = ".vbf") -> list[Path]:
        return sorted((self.line.repository / self.directory).glob(f"*{ending}"))

    def root(self, disk: str, point: int = -1) -> bytes:
        with ChainReader.open(self.storage, self.directory) as reader:
            found: bytes = next(one.root for one in reader.points[point].disks if one.name == disk)
            return found

    def child(self, root: bytes, number: int = 0) -> bytes:
        """Return the digest of the n-th child of a page that is no hole."""
        with ChainReader.open(self.storage, self.directory) as reader:
            page = reader.block(root)
        names = [page[at : at + 32] for at in range(0, len(page), 32)]
        return [name for name in names if any(name)][number]

    def spoil(self, digest: bytes) -> Path:
        """Flip a byte of what is stored for a digest."""
        with ChainReader.open(self.storage, self.directory) as reader:
            location = reader.find(digest)
            assert isinstance(location, Location)
            path = Path(self.line.repository, reader._files[location.file].name)
        with path.open("r+b") as file:
            file.seek(location.offset + 64 + 3)
            byte = file.read(1)
            file.seek(-1, 1)
            file.write(bytes([byte[0] ^ 0x10]))
        return path


@pytest.fixture(scope="module")
def shared_line(shared_line: Any) -> Any:
    shared_line.set_up("unused", machine="unused")
    return shared_line


@pytest.fixture
def chain(shared_line: Any, make_disk: Any) -> Chain:
    return two_points(shared_line, make_disk)


def two_points(line: Any, make_disk: Any) -> Chain:
    """A full and an increment of a machine with two disks; a block of the first disk is changed between them."""
    job = f"job{len(line.json('job', 'list'))}"
    disk = make_disk(line.lab / job / "disk.raw", seed=1, data_mib=4, size_bytes=300 * MIB)
    make_disk(line.lab / job / OTHER, seed=2, data_mib=2, size_bytes=3 * MIB)
    line.add_job(job, machine=job)
    line.run_job(job)
    with disk.open("r+b") as file:
        file.seek(2 * MIB)
        file.write(b"changed")
    line.run_job(job)
    for left in line.out.iterdir():
        left.unlink()
    return Chain(line, job)


def damage_of(line: Any, point: str, *options: str) -> str:
    """Return the message of a verify that must find damage."""
    message: str = line.refused("data_corrupt", "verify", point, *options)["message"]
    return message


def test_a_corrupt_block_is_named_and_costs_its_disk_only(chain: Chain, sha256: Any) -> None:
    line = chain.line
    full, increment = (point["point_id"] for point in line.points(chain.job))
    chain.spoil(chain.child(chain.child(chain.root("disk.raw", 0)), 2))  # the block that the increment replaced
    for options in ((), ("--deep",)):
        assert f"disk.raw: 1 damaged ranges (offset+bytes): {2 * MIB}+{MIB}" in damage_of(line, full, *options)
    line("verify", increment, "--deep")
    output = line.out / "damaged.raw"
    error = line.refused("data_corrupt", "restore", "disk", full, "disk.raw", "--output", output)
    assert f"disk.raw at offset {2 * MIB}" in error["message"]
    assert list(line.out.iterdir()) == []
    line.refused("data_corrupt", "restore", "machine", full, "--hypervisor", "lab", "--name", "again")
    assert not [path for path in line.lab.iterdir() if "again" in path.name]
    assert sha256(line.restore(full, OTHER)) == sha256(chain.machine / OTHER)
    assert sha256(line.restore(increment, "disk.raw")) == sha256(chain.machine / "disk.raw")


@pytest.mark.parametrize("level", ["root", "page"])
def test_a_corrupt_map_is_named_and_the_next_backup_heals_it(chain: Chain, sha256: Any, level: str) -> None:
    line = chain.line
    full, increment = (point["point_id"] for point in line.points(chain.job))
    root = chain.root("disk.raw")
    chain.spoil(root if level == "root" else chain.child(root))
    assert f"{chain.job}/disk.raw: 1 damaged ranges (offset+bytes): 0+" in damage_of(line, increment, "--deep")
    line.refused("data_corrupt", "restore", "disk", increment, "disk.raw", "--output", line.out / "no.raw")
    assert list(line.out.iterdir()) == []
    line("verify", full)
    assert sha256(line.restore(increment, OTHER)) == sha256(chain.machine / OTHER)
    assert line.run_job(chain.job)["result"] in {"success", "warning"}
    line("verify", increment, "--deep")
    newest = line.points(chain.job)[-1]["point_id"]
    for healed in (increment, newest):
        assert sha256(line.restore(healed, "disk.raw")) == sha256(chain.machine / "disk.raw")


def test_one_damaged_slot_of_a_file_costs_nothing(chain: Chain, sha256: Any) -> None:
    line = chain.line
    for number, path in enumerate(chain.files()):
        with path.open("r+b") as file:
            file.seek(SLOTS[number % 2])
            file.write(bytes(SLOT_BYTES))
    for point in line.points(chain.job):
        line("verify", point["point_id"], "--deep")
    assert line.run_job(chain.job)["result"] == "success"
    assert sha256(line.restore(line.points(chain.job)[-1]["point_id"], "disk.raw")) == sha256(
        chain.machine / "disk.raw"
    )


def test_both_slots_of_an_increment_damaged_cost_that_point_only(chain: Chain, sha256: Any) -> None:
    line = chain.line
    full, increment = (point["point_id"] for point in line.points(chain.job))
    (path,) = chain.files(".inc.vbf")
    with path.open("r+b") as file:
        for offset in SLOTS:
            file.seek(offset + 100)
            file.write(b"spoilt")
    error = line.refused("not_found", "verify", increment)
    assert path.name in error["message"]
    line("verify", full, "--deep")
    done = line.run_job(chain.job)
    assert done["result"] == "warning"
    assert path.exists()
    assert sha256(line.restore(line.points(chain.job)[-1]["point_id"], "disk.raw")) == sha256(
        chain.machine / "disk.raw"
    )


def test_a_file_of_a_later_format_version_stops_all_that_would_judge_its_chain(chain: Chain) -> None:
    line = chain.line
    point = line.points(chain.job)[0]["point_id"]
    (path,) = chain.files(".inc.vbf")
    before = path.read_bytes()
    with path.open("r+b") as file:
        for offset in SLOTS:
            slot = bytearray(before[offset : offset + SLOT_BYTES])
            struct.pack_into("<I", slot, 8, 2)
            slot[-32:] = hashlib.sha256(slot[:-32]).digest()
            file.seek(offset)
            file.write(slot)
    newer = path.read_bytes()
    for args in (("verify", point), ("restore", "disk", point, "disk.raw", "--output", line.out / "no.raw")):
        assert path.name in line.refused("format_newer", *args)["message"]
    error = line.refused("session_failed", "job", "run", chain.job)
    assert path.name in error["message"]
    assert line.json("session", "list", "--job", chain.job)[0]["error"]["code"] == "format_newer"
    assert path.read_bytes() == newer
    assert len(chain.files()) == 2
    path.write_bytes(before)
    assert line.run_job(chain.job)["result"] == "success"


def test_a_repository_of_a_later_version_is_left_alone(chain: Chain) -> None:
    line = chain.line
    point = line.points(chain.job)[0]["point_id"]
    identity = line.repository / "vbrcore-repository.json"
    text = identity.read_bytes()
    identity.write_bytes(msgspec.json.encode(msgspec.json.decode(text) | {"version": 2}))
    line.refused("format_newer", "verify", point)
    line.refused("session_failed", "job", "run", chain.job)
    assert line.json("session", "list", "--job", chain.job)[0]["error"]["code"] == "format_newer"
    assert line.json("repository", "show", "main")["reason"] != ""
    identity.write_bytes(text)
    assert line.run_job(chain.job)["result"] == "success"


def test_a_file_that_is_garbage_is_a_warning_and_stays(chain: Chain) -> None:
    line = chain.line
    garbage = line.repository / chain.directory / "letter.inc.vbf"
    garbage.write_bytes(b"not a backup file " * 10_000)
    for point in line.points(chain.job):
        line("verify", point["point_id"], "--deep")
    done = line.run_job(chain.job)
    assert done["result"] == "warning"
    session = line.session(done["session_id"])
    assert any(garbage.name in warning for warning in session["warnings"])
    assert garbage.exists()


def test_a_full_that_is_gone_costs_what_only_it_had_and_the_next_backup_stores_it_anew(
    chain: Chain, sha256: Any
) -> None:
    line = chain.line
    full, increment = (point["point_id"] for point in line.points(chain.job))
    (path,) = chain.files(".full.vbf")
    path.unlink()
    line.refused("not_found", "verify", full)
    line.refused("data_corrupt", "verify", increment)
    assert line.run_job(chain.job)["result"] == "warning"
    newest = line.points(chain.job)[-1]["point_id"]
    line("verify", increment, "--deep")
    assert sha256(line.restore(newest, "disk.raw")) == sha256(chain.machine / "disk.raw")
