"""Source images that are missing, damaged, or name what lies outside: one clear error, and the other machines are kept.

One job backs up all machines at once: the good one must come through, each bad one must fail for its own reason.
"""

import json
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import disk_bytes

MIB = 1024 * 1024


def qemu_img(*args: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, timeout=60)


def make_image(path: Path, image_format: str, *options: str, seed: int = 1) -> Path:
    """Make an image of 4 MiB full of data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = path.with_name(f"{path.name}.content")
    content.write_bytes(disk_bytes(seed, 4 * MIB))
    qemu_img("convert", "-f", "raw", "-O", image_format, *options, content, path)
    content.unlink()
    return path


def cut(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def dangling(directory: Path, _: Path) -> None:
    directory.mkdir()
    (directory / "disk.raw").symlink_to(directory / "nowhere.raw")


def leaving(directory: Path, outside: Path) -> None:
    directory.mkdir()
    (directory / "disk.raw").symlink_to(outside / "secret.raw")


def cut_qcow2(directory: Path, _: Path) -> None:
    cut(make_image(directory / "disk.qcow2", "qcow2"))


def cut_vmdk(directory: Path, _: Path) -> None:
    cut(make_image(directory / "disk.vmdk", "vmdk"))


def cut_flat_extent(directory: Path, _: Path) -> None:
    make_image(directory / "disk.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    cut(directory / "disk-flat.vmdk")


def cut_vhd(directory: Path, _: Path) -> None:
    cut(make_image(directory / "disk.vhd", "vpc"))


def cut_vhdx(directory: Path, _: Path) -> None:
    cut(make_image(directory / "disk.vhdx", "vhdx"))


def no_image(directory: Path, _: Path) -> None:
    directory.mkdir()
    (directory / "disk.qcow2").write_bytes(b"this is no image at all")


def backing_gone(directory: Path, _: Path) -> None:
    base = make_image(directory / "base.qcow2", "qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", directory / "disk.qcow2")
    base.unlink()


def overlay(directory: Path, backing: str, backing_format: str) -> None:
    directory.mkdir()
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", backing_format, directory / "disk.qcow2", "4M")


def backing_beside(directory: Path, outside: Path) -> None:
    overlay(directory, f"../../{outside.name}/secret.raw", "raw")


def backing_absolute(directory: Path, outside: Path) -> None:
    overlay(directory, str(outside / "secret.raw"), "raw")


def backing_json(directory: Path, outside: Path) -> None:
    overlay(directory, "json:" + json.dumps({"driver": "file", "filename": str(outside / "secret.raw")}), "raw")


def backing_nbd(directory: Path, _: Path) -> None:
    overlay(directory, "nbd:127.0.0.1:10809", "raw")


def extent_outside(directory: Path, outside: Path) -> None:
    image = make_image(directory / "disk.vmdk", "vmdk", "-o", "subformat=monolithicFlat")
    image.write_text(image.read_text().replace("disk-flat.vmdk", f"../../{outside.name}/secret.raw"))
    (directory / "disk-flat.vmdk").unlink()


def data_file_outside(directory: Path, outside: Path) -> None:
    directory.mkdir()
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={outside / 'data.raw'}", directory / "disk.qcow2", "4M")


BAD: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "dangling": (dangling, "image_invalid"),
    "leaving": (leaving, "image_escapes_directory"),
    "cut-qcow2": (cut_qcow2, "image_invalid"),
    "cut-vmdk": (cut_vmdk, "image_invalid"),
    "cut-flat": (cut_flat_extent, "image_invalid"),
    "cut-vhd": (cut_vhd, "image_invalid"),
    "cut-vhdx": (cut_vhdx, "image_invalid"),
    "no-image": (no_image, "image_invalid"),
    "backing-gone": (backing_gone, "image_invalid"),
    "backing-beside": (backing_beside, "image_escapes_directory"),
    "backing-absolute": (backing_absolute, "image_escapes_directory"),
    "backing-json": (backing_json, "image_escapes_directory"),
    "backing-nbd": (backing_nbd, "image_escapes_directory"),
    "extent-outside": (extent_outside, "image_escapes_directory"),
    "data-outside": (data_file_outside, "image_escapes_directory"),
}


@pytest.fixture(scope="module")
def outcome(shared_line: Any) -> dict[tuple[str, str], dict[str, str]]:
    """The failed tasks of one session over all bad machines and a good one."""
    line = shared_line
    outside = line.lab.parent / "outside"
    outside.mkdir()
    (outside / "secret.raw").write_bytes(b"secret" * MIB)
    for name, (make, _) in BAD.items():
        make(line.lab / name, outside)
    make_image(line.lab / "good" / "disk.qcow2", "qcow2")
    line.set_up()
    failed: dict[tuple[str, str], dict[str, str]] = line.failed_tasks()
    return failed


@pytest.mark.parametrize("machine", BAD)
def test_a_bad_image_fails_its_disk_with_one_clear_error(outcome: Any, machine: str) -> None:
    failed = {disk: task for (name, disk), task in outcome.items() if name == machine}
    (disk,) = set(failed) - {"configuration"}
    assert failed[disk]["code"] == BAD[machine][1]
    assert disk in failed[disk]["message"]


def test_the_good_machine_of_such_a_session_has_its_point(shared_line: Any, outcome: Any) -> None:
    assert {name for name, _ in outcome} == set(BAD)
    points = shared_line.points()
    assert [point["machine"] for point in points] == ["good"]
    restored = shared_line.restore(points[0]["point_id"], "disk.qcow2", "qcow2")
    qemu_img("compare", shared_line.lab / "good" / "disk.qcow2", restored)
    stored = b"".join(path.read_bytes() for path in shared_line.repository.rglob("*.vbf"))
    assert b"secretsecret" not in stored


def test_the_session_says_which_machines_failed_and_exits_with_3(shared_line: Any, outcome: Any) -> None:  # noqa: ARG001
    session = shared_line.json("session", "list", "--job", "nightly")[-1]
    assert session["result"] == "failed"
    log = [json.loads(text) for text in shared_line("session", "log", session["session_id"], "--json").splitlines()]
    assert log[-1]["message"].startswith("Job has stopped with failures. Name: [nightly]")


def test_an_image_that_goes_between_two_sessions_fails_and_its_points_stay(
    shared_line: Any, make_disk: Any, sha256: Any
) -> None:
    line = shared_line
    kept = make_disk(line.lab / "pair" / "kept.raw", seed=1, data_mib=1, size_bytes=2 * MIB)
    gone = make_disk(line.lab / "pair" / "gone.raw", seed=2, data_mib=1, size_bytes=2 * MIB)
    line.add_job("pair", machine="pair")
    line.run_job("pair")
    digest = sha256(gone)
    gone.unlink()
    gone.symlink_to("moved.raw")
    failed = line.failed_tasks("pair")
    assert failed["pair", "gone.raw"]["code"] == "image_invalid"
    (point,) = line.points("pair")
    assert sha256(line.restore(point["point_id"], "gone.raw")) == digest
    assert sha256(line.restore(point["point_id"], "kept.raw")) == sha256(kept)


def test_a_qcow2_with_a_damaged_table_is_refused(shared_line: Any) -> None:
    image = make_image(shared_line.lab / "table" / "disk.qcow2", "qcow2")
    with image.open("r+b") as file:
        file.seek(40)
        (table,) = struct.unpack(">Q", file.read(8))
        file.seek(table)
        file.write(struct.pack(">Q", 1 << 63 | 1 << 40))
    shared_line.add_job("table", machine="table")
    assert shared_line.failed_tasks("table")["table", "disk.qcow2"]["code"] == "image_invalid"


def test_a_machine_whose_directory_goes_away_while_it_waits(shared_line: Any, make_disk: Any) -> None:
    make_disk(shared_line.lab / "fleeting" / "disk.raw", seed=1, data_mib=1, size_bytes=2 * MIB)
    shared_line.add_job("fleeting", machine="fleeting")
    shared_line.run_job("fleeting")
    shutil.rmtree(shared_line.lab / "fleeting")
    failed = shared_line.failed_tasks("fleeting")
    assert failed["fleeting", ""]["code"] == "machine_not_found"
    assert len(shared_line.points("fleeting")) == 1


def test_the_directory_of_a_hypervisor_that_is_gone(shared_line: Any) -> None:
    gone = shared_line.lab.parent / "gone"
    gone.mkdir()
    shared_line("hypervisor", "add", "gone", "--plugin", "images", "--set", f"path={gone}")
    shared_line("job", "create", "gone", "--hypervisor", "gone", "--machine", "*", "--repository", "main")
    gone.rmdir()
    error = shared_line.refused("session_failed", "job", "run", "gone")
    assert str(gone) in error["message"]
