"""Image files of every format, read and written with the real qemu-nbd."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vbrcore.model.errors import (
    AlreadyExists,
    ImageEscapesDirectory,
    ImageInvalid,
    SinkWriteFailed,
    SourceReadFailed,
    TrackingLost,
    VbrError,
)
from vbrcore.plugins import vhdx
from vbrcore.plugins.image import create_image, open_image
from vbrcore.plugins.imagechain import format_of, references
from vbrcore.plugins.mover import Extent, Reader
from vbrcore.plugins.rawimage import RawReader

MIB = 1024 * 1024
SIZE = 6 * MIB
SUBFORMATS = [
    ("qcow2", ".qcow2", ""),
    ("qcow2", ".qcow2", "compat=0.10"),
    ("qcow2", ".qcow2", "data_file=data.bin"),
    ("vmdk", ".vmdk", "subformat=monolithicSparse"),
    ("vmdk", ".vmdk", "subformat=monolithicFlat"),
    ("vmdk", ".vmdk", "subformat=twoGbMaxExtentSparse"),
    ("vmdk", ".vmdk", "subformat=twoGbMaxExtentFlat"),
    ("vmdk", ".vmdk", "subformat=streamOptimized"),
    ("vpc", ".vhd", "subformat=dynamic,force_size=on"),
    ("vpc", ".vhd", "subformat=fixed,force_size=on"),
    ("vhdx", ".vhdx", "subformat=dynamic"),
    ("vhdx", ".vhdx", "subformat=fixed"),
]


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True, capture_output=True)


def content_of(size: int) -> bytes:
    """Data at both ends, a hole and written zeros between."""
    edge = random.Random(size).randbytes(min(size, 100_000))  # noqa: S311 - repeatable content, not a secret
    return edge if size <= len(edge) else edge + bytes(size - 2 * len(edge)) + edge


def make(path: Path, image_format: str, options: str = "", content: bytes | None = None) -> bytes:
    content = content_of(SIZE) if content is None else content
    source = path.with_suffix(".source")
    source.write_bytes(content)
    more = ["-o", options.replace("data.bin", str(path.with_name("data.bin")))] if options else []
    run("qemu-img", "convert", "-f", "raw", "-O", image_format, *more, source, path)
    source.unlink()
    return content


def read(reader: Reader) -> bytes:
    content = bytearray(b"\xa5" * reader.size_bytes)
    at = 0
    for extent in reader.extents(""):
        assert extent.offset == at
        at += extent.length
        part = memoryview(content)[extent.offset : at]
        if extent.state == "data":
            reader.read_into(extent.offset, part)
        else:
            part[:] = bytes(extent.length)
    assert at == reader.size_bytes
    return bytes(content)


def read_file(path: Path, image_format: str | None = None, directory: Path | None = None) -> bytes:
    reader = open_image(str(path), image_format or format_of(path.name) or "", str(directory or path.parent))
    try:
        return read(reader)
    finally:
        reader.close()


@pytest.fixture(autouse=True)
def nothing_is_left_over() -> object:
    yield
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    names = [Path(f"/proc/{child}/comm").read_text().strip() for child in children]
    assert "qemu-nbd" not in names


@pytest.mark.parametrize(("image_format", "ending", "options"), SUBFORMATS)
def test_every_format_reads_as_it_was_written(tmp_path: Path, image_format: str, ending: str, options: str) -> None:
    path = tmp_path / f"disk{ending}"
    content = make(path, image_format, options)
    assert read_file(path) == content


@pytest.mark.parametrize("size", [0, 1, 511, 512, 4097, MIB + 1])
def test_a_raw_image_may_have_any_size(tmp_path: Path, size: int) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(content_of(size))
    assert read_file(path) == content_of(size)


def test_a_raw_image_with_the_header_of_a_qcow2_stays_raw(tmp_path: Path) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "-u", tmp_path / "evil", "1M")
    path = tmp_path / "disk.img"
    (tmp_path / "evil").rename(path)
    assert read_file(path) == path.read_bytes()


def test_two_tebibytes_of_holes_are_one_extent(tmp_path: Path) -> None:
    for name in ("disk.raw", "disk.qcow2", "disk.vhdx", "disk.vmdk"):
        path = tmp_path / name
        if path.suffix == ".raw":
            path.touch()
            os.truncate(path, 2 << 40)
        else:
            run("qemu-img", "create", "-q", "-f", path.suffix[1:], path, "2T")
        reader = open_image(str(path), path.suffix[1:], str(tmp_path))
        assert [(extent.length, extent.state) for extent in reader.extents("")] == [(2 << 40, "zero")]
        reader.close()


@pytest.mark.parametrize("block_mib", [1, 8, 32])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_blocks_of_a_vhdx_are_found_over_chunk_borders(tmp_path: Path, block_mib: int, seed: int) -> None:
    """A chunk, after which the table has another kind of entry, is 4 GiB here. QEMU writes, we find what it wrote."""
    path, size = tmp_path / "disk.vhdx", 9 << 30
    run("qemu-img", "create", "-q", "-f", "vhdx", "-o", f"block_size={block_mib}M", path, str(size))
    choose = random.Random(seed)  # noqa: S311
    offsets = [0, (4 << 30) - 512, 4 << 30, (8 << 30) - 512, 8 << 30, size - 512]
    offsets = choose.sample(offsets, 3) + [choose.randrange(size // 512) * 512 for _ in range(4)]
    run("qemu-io", "-f", "vhdx", *[word for offset in offsets for word in ("-c", f"write -P 5 {offset} 512")], path)
    blocks = {offset // (block_mib * MIB) for offset in offsets}
    reader = open_image(str(path), "vhdx", str(tmp_path))
    found = list(reader.extents(""))
    reader.close()
    assert sum(extent.length for extent in found) == size
    data = [extent for extent in found if extent.state == "data"]
    assert all(any(extent.offset <= at < extent.offset + extent.length for extent in data) for at in offsets)
    assert sum(extent.length for extent in data) == len(blocks) * block_mib * MIB


def test_a_vhdx_with_an_unexpected_layout_is_all_data(tmp_path: Path) -> None:
    path = tmp_path / "disk.vhdx"
    make(path, "vhdx")
    original = path.read_bytes()
    assert len(list(vhdx.extents(str(path), SIZE))) >= 1
    for at, value in ((192 * 1024, b"x"), (192 * 1024 + 8, b"\xff\xff"), (192 * 1024 + 16, bytes(32))):
        path.write_bytes(original[:at] + value + original[at + len(value) :])
        assert list(vhdx.extents(str(path), SIZE)) == [Extent(0, SIZE, "data")]
    path.write_bytes(original)
    assert list(vhdx.extents(str(path), SIZE + 512)) == [Extent(0, SIZE + 512, "data")]
    os.truncate(path, 100)
    assert list(vhdx.extents(str(path), SIZE)) == [Extent(0, SIZE, "data")]


def test_without_uncached_reads_the_page_cache_is_emptied_where_it_was_empty(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(os.urandom(MIB) * 130)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    reader = RawReader(str(path))
    reader._flags = 1 << 30  # as on a kernel that does not know the flag
    buffer = memoryview(bytearray(MIB))
    for offset in range(0, reader.size_bytes, MIB):
        reader.read_into(offset, buffer)
    assert reader._evict
    assert bytes(buffer) == path.read_bytes()[-MIB:]
    reader.close()


def test_an_image_file_tracks_no_changes(tmp_path: Path) -> None:
    make(tmp_path / "disk.qcow2", "qcow2")
    (tmp_path / "disk.raw").write_bytes(b"x")
    for name in ("disk.qcow2", "disk.raw"):
        reader = open_image(str(tmp_path / name), name[5:], str(tmp_path))
        with pytest.raises(TrackingLost):
            reader.extents("since")
        reader.close()


# --- what an image consists of -----------------------------------------------------------------------


@pytest.mark.parametrize("base", ["base.qcow2", "base.raw", "base.with-no-ending"])
def test_a_backing_file_inside_is_followed(tmp_path: Path, base: str) -> None:
    base_format = "raw" if base == "base.raw" else "qcow2"
    content = make(tmp_path / base, base_format)
    overlay = tmp_path / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", base_format, overlay)
    run("qemu-io", "-f", "qcow2", "-c", f"write -P 7 {MIB} 512", overlay)
    assert read_file(overlay) == content[:MIB] + bytes([7]) * 512 + content[MIB + 512 :]
    assert references(str(overlay), "qcow2") == {str(tmp_path / base)}


def test_a_vmdk_parent_inside_is_followed(tmp_path: Path) -> None:
    content = make(tmp_path / "base.vmdk", "vmdk")
    run("qemu-img", "create", "-q", "-f", "vmdk", "-b", "base.vmdk", "-F", "vmdk", tmp_path / "disk.vmdk")
    assert read_file(tmp_path / "disk.vmdk") == content


def _backing(name: str) -> Callable[[Path], Path]:
    def build(machine: Path) -> Path:
        path = machine / "disk.qcow2"
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", name, "-F", "raw", path, "1M")
        return path

    return build


def _data_file(machine: Path) -> Path:
    make(machine / "disk.qcow2", "qcow2", "data_file=data.bin")
    (machine / "data.bin").rename(machine.parent / "outside.raw")
    (machine / "data.bin").symlink_to("../outside.raw")
    return machine / "disk.qcow2"


def _vmdk(line: str) -> Callable[[Path], Path]:
    def build(machine: Path) -> Path:
        text = f'# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n{line}\n'
        (machine / "disk.vmdk").write_text(text)
        return machine / "disk.vmdk"

    return build


def _vmdk_behind_a_header(machine: Path) -> Path:
    """A sparse header of capacity 0 makes QEMU read a descriptor elsewhere in the file."""
    text = b'# Disk DescriptorFile\ncreateType="monolithicFlat"\nRW 2048 FLAT "/etc/passwd" 0\n'
    header = b"KDMV" + (1).to_bytes(4, "little") + bytes(4 + 8 + 8) + (1).to_bytes(8, "little") + bytes(8)
    (machine / "disk.vmdk").write_bytes(header.ljust(512, b"\0") + text)
    return machine / "disk.vmdk"


def _link(machine: Path) -> Path:
    (machine / "disk.raw").symlink_to("../outside.raw")
    return machine / "disk.raw"


@pytest.mark.parametrize(
    "build",
    [
        _backing("../outside.raw"),
        _backing("/etc/passwd"),
        _backing("nbd:localhost:10809"),
        _backing('json:{"driver":"file","filename":"/etc/passwd"}'),
        _backing("http://localhost/disk"),
        _data_file,
        _vmdk('RW 2048 FLAT "../outside.raw" 0'),
        _vmdk('RW 2048 SPARSE "/etc/passwd"'),
        _vmdk('  rw 2048 flat "file:/etc/passwd" 0'),
        _vmdk('parentFileNameHint="/etc/passwd"'),
        _vmdk_behind_a_header,
        _link,
    ],
)
def test_nothing_outside_of_the_directory_is_opened(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    machine = tmp_path / "machine"
    machine.mkdir()
    (tmp_path / "outside.raw").write_bytes(bytes(2 * MIB))
    path = build(machine)
    with pytest.raises(ImageEscapesDirectory, match=str(machine)):
        read_file(path)


def _truncated(name: str, options: str = "", keep: float = 0.7) -> Callable[[Path], Path]:
    def build(machine: Path) -> Path:
        path = machine / name
        make(path, format_of(name) or "", options, os.urandom(SIZE))
        os.truncate(path, int(path.stat().st_size * keep))
        return path

    return build


def _truncated_extent(machine: Path) -> Path:
    make(machine / "disk.vmdk", "vmdk", "subformat=monolithicFlat")
    os.truncate(machine / "disk-flat.vmdk", MIB)
    return machine / "disk.vmdk"


def _fifo(machine: Path) -> Path:
    os.mkfifo(machine / "disk.raw")
    return machine / "disk.raw"


def _ring(machine: Path) -> Path:
    for name, base in (("a", "b"), ("b", "a")):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", f"{base}.qcow2", "-F", "qcow2",
            machine / f"{name}.qcow2", "1M")  # fmt: skip
    return machine / "a.qcow2"


def _garbage(machine: Path) -> Path:
    (machine / "disk.qcow2").write_bytes(b"QFI\xfb" + os.urandom(4096))
    return machine / "disk.qcow2"


@pytest.mark.parametrize(
    "build",
    [
        lambda machine: machine / "missing.qcow2",
        lambda machine: machine / "missing.raw",
        _backing("missing.raw"),
        _vmdk('RW 2048 FLAT "missing-flat.vmdk" 0'),
        _truncated("disk.qcow2"),
        _truncated("disk.qcow2", keep=0.001),
        _truncated("disk.vmdk"),
        _truncated("disk.vmdk", "subformat=streamOptimized"),
        _truncated("disk.vhd"),
        _truncated("disk.vhd", "subformat=fixed"),
        _truncated("disk.vhdx"),
        _truncated_extent,
        _fifo,
        _ring,
        _garbage,
    ],
)
def test_a_missing_or_damaged_image_is_one_clear_error(tmp_path: Path, build: Callable[[Path], Path]) -> None:
    with pytest.raises(ImageInvalid, match=str(tmp_path)):
        read_file(build(tmp_path))


def test_what_a_guest_writes_hides_no_other_disk(tmp_path: Path) -> None:
    (tmp_path / "other.raw").write_bytes(bytes(MIB))
    flat = tmp_path / "disk-flat.vmdk"
    flat.write_text('# Disk DescriptorFile\nRW 2048 FLAT "other.raw" 0\n')
    assert references(str(flat), "vmdk") == set()
    assert references(str(tmp_path / "other.raw"), "raw") == set()


# --- writing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("image_format", ["raw", "qcow2", "vmdk", "vhdx"])
@pytest.mark.parametrize("size", [0, 1, 513, SIZE])
def test_a_written_image_reads_as_it_was_written(tmp_path: Path, image_format: str, size: int) -> None:
    path = tmp_path / f"new.{image_format}"
    content = content_of(size)
    writer = create_image(str(path), image_format, size)
    for offset in range(0, size, MIB):
        block = memoryview(content)[offset : offset + MIB]
        if any(block):
            writer.write_from(offset, block)
    if size == SIZE:
        writer.zero(0, MIB)
        writer.write_from(0, memoryview(content)[:MIB])
        writer.zero(2 * MIB, MIB)
    writer.finish()
    writer.close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert read_file(path).rstrip(b"\0") == content.rstrip(b"\0")
    if image_format != "raw":
        run("qemu-img", "compare", "-f", image_format, "-F", image_format, path, path)


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_an_existing_file_is_never_touched(tmp_path: Path, image_format: str) -> None:
    (tmp_path / "there").write_text("mine")
    (tmp_path / "link").symlink_to("absent")
    for name in ("there", "link"):
        with pytest.raises(AlreadyExists):
            create_image(str(tmp_path / name), image_format, MIB)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link", "there"]
    assert (tmp_path / "there").read_text() == "mine"


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_without_finish_nothing_remains(tmp_path: Path, image_format: str) -> None:
    writer = create_image(str(tmp_path / "new"), image_format, MIB)
    writer.write_from(0, memoryview(b"x" * 512))
    writer.close()
    writer.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("image_format", ["raw", "qcow2"])
def test_writing_beyond_the_end_fails(tmp_path: Path, image_format: str) -> None:
    writer = create_image(str(tmp_path / "new"), image_format, MIB)
    with pytest.raises(SinkWriteFailed):
        writer.write_from(MIB - 512, memoryview(bytes(1024)))
    writer.close()


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    for image_format, path in (("raw", tmp_path / "no" / "new"), ("qcow2", tmp_path / "no" / "new")):
        with pytest.raises(SinkWriteFailed, match="No such file"):
            create_image(str(path), image_format, MIB)
    with pytest.raises(SinkWriteFailed, match="'vdi'"):
        create_image(str(tmp_path / "new"), "vdi", MIB)


# --- when something dies ------------------------------------------------------------------------------


def _server_of(reader: Reader) -> int:
    pid = reader._server.pid  # type: ignore[attr-defined]
    assert isinstance(pid, int)
    return pid


def test_a_killed_qemu_nbd_is_a_read_error(tmp_path: Path) -> None:
    make(tmp_path / "disk.qcow2", "qcow2")
    reader = open_image(str(tmp_path / "disk.qcow2"), "qcow2", str(tmp_path))
    os.kill(_server_of(reader), signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(SourceReadFailed):
            reader.read_into(0, memoryview(bytearray(MIB)))
    reader.close()


def test_a_truncated_raw_file_is_a_read_error(tmp_path: Path) -> None:
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(MIB))
    reader = open_image(str(path), "raw", str(tmp_path))
    os.truncate(path, 1000)
    with pytest.raises(SourceReadFailed, match="truncated"):
        reader.read_into(0, memoryview(bytearray(MIB)))
    reader.close()


def test_qemu_nbd_dies_with_its_parent(tmp_path: Path) -> None:
    make(tmp_path / "disk.qcow2", "qcow2")
    script = (
        "import sys; from vbrcore.plugins.image import open_image\n"
        "reader = open_image(sys.argv[1], 'qcow2', None); print(reader._server.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "disk.qcow2")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert Path(f"/proc/{pid}/comm").read_text() == "qemu-nbd\n"
        parent.kill()
    while _alive(pid):  # the test's own time limit ends this
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_errors_cross_processes(tmp_path: Path) -> None:
    with pytest.raises(VbrError) as caught:
        read_file(tmp_path / "missing.vmdk")
    assert caught.value.info().exit_code == 16
