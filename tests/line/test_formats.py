"""Every format and size of a disk comes back as it was, from both of its points, in every format of a restore."""

import random
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.line.conftest import disk_bytes

MIB = 1024 * 1024
GIB = 1024 * MIB
TIB = 1024 * GIB
FORMATS = {".raw": "raw", ".img": "raw", ".qcow2": "qcow2", ".vmdk": "vmdk", ".vhd": "vpc", ".vhdx": "vhdx"}
RESTORED = ("raw", "qcow2", "vmdk", "vhdx")


def qemu_img(*args: str | Path) -> None:
    subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, timeout=60)


def qemu_write(image: Path, *commands: str) -> None:
    arguments = [argument for command in commands for argument in ("-c", command)]
    subprocess.run(
        ["qemu-io", "-f", FORMATS[image.suffix], *arguments, str(image)], check=True, capture_output=True, timeout=60
    )


def copy_of(image: Path, target: Path) -> Path:
    """Return a raw copy of what an image holds now."""
    qemu_img("convert", "-f", FORMATS[image.suffix], "-O", "raw", image, target)
    return target


def same(first: Path, second: Path, second_format: str = "raw") -> bool:
    """Say whether a raw file and an image hold the same; a longer one only zeros behind the other's end."""
    command = ["qemu-img", "compare", "-f", "raw", "-F", second_format, str(first), str(second)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


# --- formats --------------------------------------------------------------------------------------


def make_images(directory: Path, seed: int) -> list[Path]:
    """Make a disk of every format, most of them of 8 MiB with a hole in the middle."""
    directory.mkdir(parents=True)
    content = directory.parent.parent / f"content-{seed}"
    content.write_bytes(disk_bytes(seed, 3 * MIB) + bytes(3 * MIB) + random.Random(seed).randbytes(2 * MIB))  # noqa: S311
    made = {
        "plain.raw": [],
        "plain.qcow2": ["-o", "cluster_size=64k"],
        "packed.qcow2": ["-c", "-o", "compression_type=zstd"],
        "sparse.vmdk": ["-o", "subformat=monolithicSparse"],
        "flat.vmdk": ["-o", "subformat=monolithicFlat"],
        "stream.vmdk": ["-o", "subformat=streamOptimized"],
        "dynamic.vhd": ["-o", "subformat=dynamic,force_size=on"],
        "fixed.vhd": ["-o", "subformat=fixed,force_size=on"],
        "dynamic.vhdx": ["-o", "subformat=dynamic"],
    }
    for name, options in made.items():
        image = directory / name
        qemu_img("convert", "-f", "raw", "-O", FORMATS[image.suffix], *options, content, image)
    qemu_img("convert", "-f", "raw", "-O", "qcow2", content, directory / "base.qcow2")
    qemu_img("create", "-q", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", directory / "overlay.qcow2")
    qemu_write(directory / "overlay.qcow2", "write -P 0x77 1M 64k")
    return [directory / name for name in (*made, "overlay.qcow2")]


def change_images(images: list[Path], seed: int) -> None:
    for image in images:
        if image.name == "stream.vmdk":  # cannot be changed in place
            content = copy_of(image, image.with_name("changed"))
            qemu_write(content.rename(content.with_suffix(".raw")), f"write -P {seed} 5M 300k")
            qemu_img(
                *("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"),
                content.with_suffix(".raw"),
                image,
            )
            content.with_suffix(".raw").unlink()
        else:
            qemu_write(image, f"write -P {seed} 5M 300k", "write -z 1M 128k")


def test_a_disk_of_every_format_comes_back_from_both_points(shared_line: Any, tmp_path: Path) -> None:
    line = shared_line
    images = make_images(line.lab / "formats", seed=3)
    line.add_job("formats", machine="formats")
    expected = [{image.name: copy_of(image, tmp_path / f"{image.name}.first") for image in images}]
    full = line.run_job("formats")
    change_images(images, seed=9)
    expected.append({image.name: copy_of(image, tmp_path / f"{image.name}.second") for image in images})
    increment = line.run_job("formats")
    assert (full["result"], increment["result"]) == ("success", "success")
    assert 0 < increment["stored_bytes"] < full["stored_bytes"]
    points = line.points("formats")
    assert [point["kind"] for point in points] == ["full", "increment"]
    for number, point in enumerate(points):
        assert {disk["name"] for disk in point["disks"]} == {image.name for image in images}
        restored = restore_machine(line, point, f"formats-{number}")
        for name, file in restored.items():
            assert same(expected[number][name], file), f"{name} of the {point['kind']} point"


def restore_machine(line: Any, point: dict[str, Any], name: str) -> dict[str, Path]:
    """Restore a machine into the second directory; return its raw files by the name of the disk in the point."""
    line("restore", "machine", point["point_id"], "--hypervisor", "out", "--name", name)
    used: dict[str, int] = {}
    files = {}
    for disk in point["disks"]:
        stem = Path(disk["name"]).stem
        used[stem] = used.get(stem, 0) + 1
        files[disk["name"]] = line.out / name / (f"{stem}.raw" if used[stem] == 1 else f"{stem}-{used[stem]}.raw")
        assert files[disk["name"]].stat().st_size == disk["size_bytes"]
    return files


# --- sizes and contents ---------------------------------------------------------------------------


def make_odd_disks(directory: Path) -> dict[str, Path]:
    """Make raw disks whose sizes or contents are at an edge."""
    directory.mkdir(parents=True)
    generator = random.Random(5)  # noqa: S311 - contents that can be made again
    header = directory.parent.parent / "header.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", header, "64M")
    contents = {
        "byte.raw": b"\x01",
        "sector.raw": disk_bytes(1, 511),
        "page.raw": disk_bytes(2, 4097),
        "block.raw": disk_bytes(3, MIB + 1),
        "empty.raw": b"",
        "zero.raw": bytes(5 * MIB),
        "random.raw": generator.randbytes(6 * MIB + 77),
        "header.raw": header.read_bytes() + generator.randbytes(1000),
    }
    for name, data in contents.items():
        (directory / name).write_bytes(data)
    with (directory / "hole.img").open("wb") as file:
        file.truncate(9 * MIB + 5)
    return {path.name: path for path in directory.iterdir()}


@pytest.fixture(scope="module")
def shared_line(shared_line: Any) -> Any:
    shared_line.set_up("odd", machine="odd")
    shared_line("hypervisor", "add", "out", "--plugin", "images", "--set", f"path={shared_line.out}")
    return shared_line


@pytest.fixture(scope="module")
def odd_disks(shared_line: Any) -> dict[str, Path]:
    return make_odd_disks(shared_line.lab / "odd")


@pytest.fixture(scope="module")
def odd_point(shared_line: Any, odd_disks: dict[str, Path]) -> dict[str, Any]:  # noqa: ARG001 - must be there
    assert shared_line.run_job("odd")["result"] == "success"
    point: dict[str, Any] = shared_line.points("odd")[-1]
    return point


def test_sizes_that_are_no_multiple_of_anything_and_edges_of_contents(
    shared_line: Any, odd_disks: dict[str, Path], odd_point: dict[str, Any], sha256: Any
) -> None:
    assert {disk["name"] for disk in odd_point["disks"]} == set(odd_disks)
    shared_line("verify", odd_point["point_id"], "--deep")
    for name, file in restore_machine(shared_line, odd_point, "odd-again").items():
        assert sha256(file) == sha256(odd_disks[name]), name


@pytest.mark.parametrize("image_format", RESTORED)
@pytest.mark.parametrize("disk", ["page.raw", "empty.raw", "random.raw", "hole.img"])
def test_an_odd_disk_is_restored_to_every_format(
    shared_line: Any, odd_disks: dict[str, Path], odd_point: dict[str, Any], disk: str, image_format: str
) -> None:
    restored = shared_line.restore(odd_point["point_id"], disk, image_format)
    assert same(odd_disks[disk], restored, image_format)


@pytest.mark.parametrize(
    ("block_size", "compression"), [("256K", "none"), ("256K", "high"), ("4M", "optimal"), ("4M", "fast")]
)
def test_block_sizes_and_compressions_change_nothing_of_the_contents(
    shared_line: Any, make_disk: Any, sha256: Any, block_size: str, compression: str
) -> None:
    name = f"b{block_size}-{compression}"
    disk = make_disk(shared_line.lab / name / "disk.raw", seed=11, data_mib=5, size_bytes=9 * MIB + 13)
    small = make_disk(shared_line.lab / name / "small.raw", seed=12, data_mib=1, size_bytes=MIB - 1)
    shared_line.add_job(name, "--block-size", block_size, "--compression", compression, machine=name)
    first = sha256(disk)
    shared_line.run_job(name)
    with disk.open("r+b") as file:
        file.seek(9 * MIB)
        file.write(b"the last block")
        file.truncate(9 * MIB + 14)
    shared_line.run_job(name)
    full, increment = shared_line.points(name)
    assert sha256(restore_machine(shared_line, full, f"{name}-1")["disk.raw"]) == first
    restored = restore_machine(shared_line, increment, f"{name}-2")
    assert {key: sha256(file) for key, file in restored.items()} == {
        "disk.raw": sha256(disk),
        "small.raw": sha256(small),
    }


# --- huge disks -----------------------------------------------------------------------------------


def test_two_tebibytes_that_are_mostly_empty(shared_line: Any, record_testsuite_property: Any) -> None:
    raw = shared_line.lab / "huge" / "huge.raw"
    raw.parent.mkdir()
    places = (0, 700 * GIB + 12345, 2 * TIB - 4 * MIB)
    with raw.open("wb") as file:
        file.truncate(2 * TIB)
        for number, place in enumerate(places):
            file.seek(place)
            file.write(disk_bytes(number, 2 * MIB))
    qcow2 = raw.with_suffix(".qcow2")
    qemu_img("create", "-q", "-f", "qcow2", qcow2, "2T")
    qemu_write(qcow2, f"write -P 5 {TIB} 1M")
    shared_line.add_job("huge", machine="huge")
    full = shared_line.run_job("huge")
    qemu_write(raw, f"write -P 9 {TIB + 5} 100")
    increment = shared_line.run_job("huge")
    record_testsuite_property("2 TiB raw and 2 TiB qcow2 side by side, full, s", full["duration_s"])
    record_testsuite_property("2 TiB raw and 2 TiB qcow2 side by side, increment, s", increment["duration_s"])
    assert full["read_bytes"] < 32 * MIB
    assert increment["transferred_bytes"] < MIB
    point = shared_line.points("huge")[-1]["point_id"]
    assert same(raw, shared_line.restore(point, "huge.raw"))
    restored = shared_line.restore(point, "huge.qcow2", "qcow2")
    assert restored.stat().st_blocks * 512 < 32 * MIB
    assert same_at(restored, 5, TIB, MIB)


def same_at(image: Path, byte: int, offset: int, length: int) -> bool:
    """Say whether a qcow2 holds `byte` at a place (and can be read there)."""
    command = ["qemu-io", "-r", "-f", "qcow2", "-c", f"read -P {byte} {offset} {length}", str(image)]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
