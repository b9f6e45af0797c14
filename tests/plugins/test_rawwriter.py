"""Raw images written directly where place and memory are aligned, through the page cache where they are not."""

import mmap
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vbrcore.model.errors import SinkWriteFailed
from vbrcore.plugins.newfile import NewFile
from vbrcore.plugins.rawimage import RawWriter

MIB = 1024 * 1024
SIZE_BYTES = 8 * MIB + 4096 + 511


@pytest.fixture(params=["disk", "memory"])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    if request.param == "disk":
        yield tmp_path
        return
    path = Path("/dev/shm") / f"vbr-test-{os.getpid()}"  # noqa: S108 a tmpfs is what is wanted, and the name is ours
    path.mkdir()
    yield path
    for file in path.iterdir():
        file.unlink()
    path.rmdir()


@pytest.mark.parametrize("aligned", [True, False])
def test_what_is_written_is_there_whatever_its_alignment(directory: Path, aligned: bool) -> None:
    content = bytearray(random.Random(7).randbytes(SIZE_BYTES))  # noqa: S311 test data
    content[3 * MIB : 5 * MIB] = bytes(2 * MIB)
    memory = mmap.mmap(-1, SIZE_BYTES + 512)
    shift = 0 if aligned else 512
    memory[shift : shift + SIZE_BYTES] = bytes(content)
    view = memoryview(memory)[shift : shift + SIZE_BYTES]
    writer = RawWriter(NewFile(str(directory / "disk.raw")), SIZE_BYTES)
    try:
        pieces = [(at, min(MIB, SIZE_BYTES - at)) for at in range(0, SIZE_BYTES, MIB) if not 3 * MIB <= at < 5 * MIB]
        with ThreadPoolExecutor(4) as pool:
            for done in [pool.submit(writer.write_from, at, view[at : at + length]) for at, length in pieces]:
                done.result()
        writer.write_from(100, view[100:4321])  # over what is there already, through the cache
        writer.zero(3 * MIB, 2 * MIB)
        writer.finish()
    finally:
        writer.close()
    assert (directory / "disk.raw").read_bytes() == content
    assert (directory / "disk.raw").stat().st_blocks * 512 < SIZE_BYTES


def test_zeros_replace_what_was_written_directly(directory: Path) -> None:
    writer = RawWriter(NewFile(str(directory / "disk.raw")), 2 * MIB)
    try:
        writer.write_from(0, memoryview(mmap.mmap(-1, 0x200000)).cast("B"))
        writer.write_from(MIB, memoryview(b"x" * MIB))
        writer.zero(MIB, 4096)
        writer.finish()
    finally:
        writer.close()
    assert (directory / "disk.raw").read_bytes() == bytes(MIB + 4096) + b"x" * (MIB - 4096)


def test_nothing_is_written_beyond_the_end(directory: Path) -> None:
    writer = RawWriter(NewFile(str(directory / "disk.raw")), MIB)
    try:
        with pytest.raises(SinkWriteFailed, match="beyond its end"):
            writer.write_from(4096, memoryview(bytes(MIB)))
    finally:
        writer.close()
    assert list(directory.iterdir()) == []
