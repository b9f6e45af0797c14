"""What a storage is found to be able to do, on real file systems and on the twin, and that it then does it."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.storage.conftest import MIB, Kind
from vbrcore.model.errors import AlreadyExists, CapabilityMissing, NotFound, RepositoryReadOnly, StorageFailed
from vbrcore.storage.capabilities import PROBE_NAMES, probe
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage


def write(storage: Storage, name: str, data: bytes) -> None:
    appender = storage.create(name)
    appender.write(0, [data])
    appender.sync()
    appender.close()


def test_the_class_is_found_by_doing_it_and_nothing_remains(storage: Storage, kind: Kind) -> None:
    assert probe(storage) == kind.storage_class
    assert storage.list("") == ()


def test_the_block_of_the_file_system_is_known(storage: Storage, kind: Kind) -> None:
    assert storage.alignment_bytes == kind.alignment_bytes


def test_what_a_killed_probe_left_is_removed(storage: Storage, kind: Kind) -> None:
    for name in PROBE_NAMES:
        write(storage, name, b"left")
    assert probe(storage) == kind.storage_class
    assert not PROBE_NAMES.intersection(storage.list(""))


def test_a_hole_gives_space_back_or_it_is_said_that_it_cannot(storage: Storage, kind: Kind) -> None:
    block = storage.alignment_bytes
    content = os.urandom(8 * block)
    write(storage, "a", content)
    before = storage.allocated_bytes("a")
    if kind.storage_class == "copy":
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


def test_a_range_is_shared_or_it_is_said_that_it_cannot(storage: Storage, kind: Kind) -> None:
    block = storage.alignment_bytes
    content = os.urandom(4 * block)
    write(storage, "a", content)
    appender = storage.create("b")
    try:
        with pytest.raises(ValueError, match="aligned"):
            appender.clone_range("a", 1, 0, block)
        if kind.storage_class != "clone":
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


EXTENT = 256 * 1024
EXTENTS = 64


def extents(storage: Storage, name: str) -> None:
    """Written one after the other, as a backup does, and durable together."""
    appender = storage.create(name)
    for number in range(EXTENTS):
        appender.write(number * EXTENT, [os.urandom(EXTENT)])
    appender.sync()
    appender.close()


def used_bytes(storage: Storage, before_bytes: int, wanted_bytes: int) -> int:
    """Return what was used since; a file system that frees in the background is waited for."""
    for _ in range(100):
        os.sync()
        used = before_bytes - storage.free_bytes()
        if used <= wanted_bytes:
            break
        time.sleep(0.1)
    return used


def test_what_is_unlinked_comes_back(storage: Storage, kind: Kind) -> None:
    if kind.file_system == "ramfs":
        assert storage.free_bytes() == 0  # it has no size, so nothing can be said of its space
        return
    os.sync()
    before = storage.free_bytes()
    extents(storage, "a")
    assert 0 <= storage.allocated_bytes("a") - EXTENTS * EXTENT <= 2 * kind.alignment_bytes
    storage.remove("a")
    storage.sync_directory("")
    assert used_bytes(storage, before, MIB) <= MIB


def test_every_extent_comes_back_by_itself(storage: Storage, kind: Kind) -> None:
    """Not only what `allocated_bytes` says: the file system has it."""
    if kind.storage_class == "copy":
        extents(storage, "a")
        with pytest.raises(CapabilityMissing):
            storage.punch("a", 0, EXTENT)
        return
    os.sync()
    before = storage.free_bytes()
    extents(storage, "a")
    for number in range(0, EXTENTS, 2):
        storage.punch("a", number * EXTENT, EXTENT)
    appender = storage.modify("a")
    appender.sync()
    appender.close()
    half = EXTENTS * EXTENT // 2
    assert 0 <= storage.allocated_bytes("a") - half <= 2 * kind.alignment_bytes  # XFS counts its list of places
    assert used_bytes(storage, before, half + MIB) <= half + MIB
    storage.remove("a")


def test_what_is_shared_comes_back_with_its_last_user(storage: Storage, kind: Kind) -> None:
    if kind.storage_class != "clone":
        storage.create("a").close()
        appender = storage.create("b")
        with pytest.raises(CapabilityMissing):
            appender.clone_range("a", 0, 0, 0)
        appender.close()
        return
    os.sync()
    before = storage.free_bytes()
    extents(storage, "a")
    appender = storage.create("b")
    for number in range(0, EXTENTS, 2):
        appender.clone_range("a", number * EXTENT, number * EXTENT // 2, EXTENT)
    appender.sync()
    appender.close()
    half = EXTENTS * EXTENT // 2
    assert 0 <= storage.allocated_bytes("b") - half <= 2 * kind.alignment_bytes
    assert used_bytes(storage, before, 2 * half + MIB) <= 2 * half + MIB
    storage.remove("a")
    assert used_bytes(storage, before, half + MIB) <= half + MIB
    storage.remove("b")
    assert used_bytes(storage, before, MIB) <= MIB


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
