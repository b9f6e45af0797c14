"""What a storage is found to be able to do, on real file systems and on the twin, and that it then does it."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vbrcore.model.errors import AlreadyExists, CapabilityMissing, NotFound, RepositoryReadOnly, StorageFailed
from vbrcore.storage.capabilities import PROBE_NAMES, StorageClass, probe
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.testing.memory_storage import MemoryStorage

MIB = 1024 * 1024
EXPECTED: dict[str, StorageClass] = {
    "xfs": "clone",
    "ext4": "punch",
    "tmpfs": "punch",
    "ramfs": "copy",
    "memory-clone": "clone",
    "memory-punch": "punch",
    "memory-copy": "copy",
}
MAKERS = {
    "xfs": ["mkfs.xfs", "-q", "-m", "reflink=1"],
    "ext4": ["mkfs.ext4", "-q"],
}
SIZES = {"xfs": 512 * MIB, "ext4": 64 * MIB, "tmpfs": 16 * MIB, "ramfs": 16 * MIB}


@pytest.fixture(params=list(EXPECTED))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def storage(kind: str, tmp_path: Path) -> Iterator[Storage]:
    name = kind.partition("-")[0]
    if name == "memory":
        yield MemoryStorage(storage_class=EXPECTED[kind])
        return
    if os.geteuid() != 0:
        pytest.skip(f"a file system of its own ({name}) needs a mount, which needs root")
    path = tmp_path / "mounted"
    path.mkdir()
    if name in {"tmpfs", "ramfs"}:
        command = ["mount", "-t", name, "-o", f"size={SIZES[name]}", "vbrtest", str(path)]
    else:
        image = tmp_path / "image"
        with image.open("wb") as file:
            file.truncate(SIZES[name])
        subprocess.run([*MAKERS[name], str(image)], check=True, capture_output=True)
        command = ["mount", "-o", "loop", str(image), str(path)]
    mounted = subprocess.run(command, check=False, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"mounting {name} is not possible here: {mounted.stderr.strip()}")
    try:
        yield LocalStorage(path)
    finally:
        subprocess.run(["umount", str(path)], check=True)


def write(storage: Storage, name: str, data: bytes) -> None:
    appender = storage.create(name)
    appender.write(0, [data])
    appender.sync()
    appender.close()


def test_the_class_is_found_by_doing_it_and_nothing_remains(storage: Storage, kind: str) -> None:
    assert probe(storage) == EXPECTED[kind]
    assert storage.list("") == ()


def test_what_a_killed_probe_left_is_removed(storage: Storage, kind: str) -> None:
    for name in PROBE_NAMES:
        write(storage, name, b"left")
    assert probe(storage) == EXPECTED[kind]
    assert not PROBE_NAMES.intersection(storage.list(""))


def test_a_hole_gives_space_back_or_it_is_said_that_it_cannot(storage: Storage, kind: str) -> None:
    block = storage.alignment_bytes
    content = os.urandom(8 * block)
    write(storage, "a", content)
    before = storage.allocated_bytes("a")
    if EXPECTED[kind] == "copy":
        with pytest.raises(CapabilityMissing):
            storage.punch("a", block, block)
        assert storage.read("a", 0, 8 * block) == content
        return
    storage.punch("a", 2 * block - 1, 3 * block + 1)  # the whole blocks inside: 2, 3 and 4
    expected = content[: 2 * block] + bytes(3 * block) + content[5 * block :]
    assert storage.read("a", 0, 8 * block) == expected
    assert storage.size("a") == 8 * block
    assert before - storage.allocated_bytes("a") == 3 * block
    storage.punch("a", 1, block - 1)  # no whole block
    assert storage.read("a", 0, 8 * block) == expected


def test_a_range_is_shared_or_it_is_said_that_it_cannot(storage: Storage, kind: str) -> None:
    block = storage.alignment_bytes
    content = os.urandom(4 * block)
    write(storage, "a", content)
    appender = storage.create("b")
    try:
        with pytest.raises(ValueError, match="aligned"):
            appender.clone_range("a", 1, 0, block)
        if EXPECTED[kind] != "clone":
            with pytest.raises(CapabilityMissing):
                appender.clone_range("a", 0, 0, block)
            return
        appender.clone_range("a", 2 * block, block, 2 * block)
        appender.write(0, [b"x" * block])
        with pytest.raises(StorageFailed):
            appender.clone_range("a", 3 * block, 3 * block, 2 * block)
        with pytest.raises(NotFound):
            appender.clone_range("none", 0, 3 * block, block)
        appender.sync()
    finally:
        appender.close()
    storage.punch("a", 2 * block, block)
    assert storage.read("b", 0, 3 * block) == b"x" * block + content[2 * block :]
    assert storage.read("a", 2 * block, block) == bytes(block)


def test_renaming_replaces_nothing(storage: Storage) -> None:
    write(storage, "a", b"one")
    write(storage, "b", b"two")
    with pytest.raises(AlreadyExists):
        storage.rename("a", "b")
    storage.rename("a", "c")
    storage.sync_directory("")
    assert storage.list("") == ("b", "c")
    assert (storage.read("b", 0, 9), storage.read("c", 0, 9)) == (b"two", b"one")


def test_a_read_only_storage_says_so(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    path = tmp_path / "mounted"
    path.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "vbrtest", str(path)], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(RepositoryReadOnly):
            probe(LocalStorage(path))
    finally:
        subprocess.run(["umount", str(path)], check=True)
