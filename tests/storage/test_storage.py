"""The behavioural suite of the storage port: every implementation passes the same."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.storage.conftest import KINDS, KNOWN, Kind
from vbrcore.model.errors import (
    AlreadyExists,
    ChainLocked,
    InvalidValue,
    NotFound,
    RepositoryFull,
    RepositoryReadOnly,
    StorageFailed,
)
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.testing.memory_storage import MemoryStorage

PAGE = 4096


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_storage_is_looked_at(name: str) -> None:
    if name not in KNOWN:
        pytest.skip(f"{name}: this kernel has no {KINDS[name].file_system}, or there is no smbd: not looked at")


def write(storage: Storage, name: str, data: bytes) -> None:
    appender = storage.create(name)
    appender.write(0, [data])
    appender.sync()
    appender.close()


def test_write_gathers_parts_and_leaves_holes(storage: Storage) -> None:
    appender = storage.create("chain/a.vbf")
    appender.write(2 * PAGE, [b"one", memoryview(b"two"), bytearray(b"three"), b""])
    appender.write_slot(0, b"s" * PAGE)
    appender.sync()
    appender.close()
    appender.close()
    assert storage.size("chain/a.vbf") == 2 * PAGE + 11
    assert storage.read("chain/a.vbf", 0, 2 * PAGE + 100) == b"s" * PAGE + bytes(PAGE) + b"onetwothree"
    assert storage.read("chain/a.vbf", 1 << 40, 10) == b""
    with pytest.raises(StorageFailed):
        appender.write(0, [b"x"])


def test_slots_have_their_size(storage: Storage) -> None:
    appender = storage.create("a")
    with pytest.raises(ValueError, match="slot"):
        appender.write_slot(0, b"short")
    appender.close()


def test_create_is_exclusive_and_modify_is_not_create(storage: Storage) -> None:
    write(storage, "chain/a", b"x")
    with pytest.raises(AlreadyExists):
        storage.create("chain/a")
    with pytest.raises(NotFound):
        storage.modify("chain/b")
    appender = storage.modify("chain/a")
    appender.write(PAGE, [b"y"])
    appender.close()
    assert storage.size("chain/a") == PAGE + 1


def test_reader_scatters_and_stops_at_the_end(storage: Storage) -> None:
    write(storage, "a", b"0123456789")
    reader = storage.open_reader("a")
    first, second = bytearray(4), bytearray(10)
    assert reader.read_into(2, [first, second]) == 8
    assert (bytes(first), bytes(second[:4])) == (b"2345", b"6789")
    assert reader.read_into(50, [first]) == 0
    assert reader.size_bytes == 10
    reader.close()
    reader.close()


def test_list_rename_remove(storage: Storage) -> None:
    assert storage.list("chain/") == ()
    for name in ("chain/b", "chain/a", "other/c", "d"):
        write(storage, name, b"x")
    assert storage.list("chain/") == ("chain/a", "chain/b")
    assert storage.list("") == ("chain/a", "chain/b", "d", "other/c")
    storage.rename("chain/a", "chain/z")
    storage.remove("chain/b")
    storage.sync_directory("chain/")
    storage.sync_directory("")
    assert storage.list("chain/") == ("chain/z",)
    for missing in (lambda: storage.remove("chain/a"), lambda: storage.rename("x", "y"), lambda: storage.size("x")):
        with pytest.raises(NotFound):
            missing()
    with pytest.raises(NotFound):
        storage.read("nothing/here", 0, 1)


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\0b", "x" * 2000])
def test_names_never_lead_out(storage: Storage, name: str) -> None:
    with pytest.raises(InvalidValue):
        storage.create(name)


def test_truncate_cuts_off(storage: Storage) -> None:
    write(storage, "a", b"x" * 4 * PAGE)
    storage.truncate("a", 3 * PAGE)
    assert storage.size("a") == 3 * PAGE
    assert storage.read("a", 0, 4 * PAGE) == b"x" * 3 * PAGE


def test_lock_is_exclusive(storage: Storage) -> None:
    lock = storage.lock("chain/chain.lock")
    with pytest.raises(ChainLocked):
        storage.lock("chain/chain.lock")
    storage.lock("other/chain.lock").release()
    lock.release()
    lock.release()
    storage.lock("chain/chain.lock").release()


def test_an_empty_directory_goes_and_another_stays(storage: Storage) -> None:
    write(storage, "chain/a", b"1")
    storage.remove_directory("chain")
    assert storage.read("chain/a", 0, 9) == b"1"
    storage.remove("chain/a")
    storage.remove_directory("chain")
    storage.remove_directory("chain")
    assert storage.list("") == ()


def test_a_lock_that_was_removed_locks_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    first = storage.lock("chain/lock")
    storage.remove("chain/lock")
    second = storage.lock("chain/lock")  # another file of that name
    first.release()
    with pytest.raises(ChainLocked):
        storage.lock("chain/lock")
    second.release()


def test_free_bytes(storage: Storage, kind: Kind) -> None:
    assert (storage.free_bytes() > 0) != (kind.file_system == "ramfs")  # that has no size


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from vbrcore.storage.local import LocalStorage\n"
        "lock = LocalStorage(Path(sys.argv[1])).lock('c/l'); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child, child.stdout:
        assert child.stdout.readline() == b"held\n"
        storage = LocalStorage(tmp_path)
        with pytest.raises(ChainLocked):
            storage.lock("c/l")
        os.kill(child.pid, signal.SIGSTOP)  # only cut off: still held
        with pytest.raises(ChainLocked):
            storage.lock("c/l")
        child.kill()
        child.wait()
        storage.lock("c/l").release()


def test_full_file_system(small_mount: Path) -> None:
    storage = LocalStorage(small_mount)
    appender = storage.create("chain/a")
    with pytest.raises(RepositoryFull):
        appender.write(0, [bytes(2 * 1024 * 1024)])
    appender.close()


def test_full_memory() -> None:
    appender = MemoryStorage(capacity_bytes=100).create("a")
    with pytest.raises(RepositoryFull):
        appender.write(0, [bytes(101)])


def test_read_only_file_system(small_mount: Path) -> None:
    storage = LocalStorage(small_mount)
    write(storage, "chain/a", b"x")
    subprocess.run(["mount", "-o", "remount,ro", str(small_mount)], check=True)
    for attempt in (
        lambda: storage.create("chain/b"),
        lambda: storage.modify("chain/a"),
        lambda: storage.remove("chain/a"),
        lambda: storage.lock("chain/l"),
    ):
        with pytest.raises(RepositoryReadOnly):
            attempt()
    assert storage.read("chain/a", 0, 1) == b"x"


def test_symbolic_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a").symlink_to(tmp_path / "outside")
    with pytest.raises(StorageFailed):
        LocalStorage(tmp_path / "root").modify("a")


def test_a_directory_that_cannot_be_read_is_no_empty_one(tmp_path: Path) -> None:
    (tmp_path / "root" / "lost+found").mkdir(parents=True)
    (tmp_path / "root" / "lost+found" / "#1").write_bytes(b"x")
    storage = LocalStorage(tmp_path / "root")
    assert storage.list("") == ()
    (tmp_path / "root" / "chain").write_bytes(b"a file where a directory should be")
    with pytest.raises(NotFound):
        storage.list("chain/")


def test_a_locked_file_is_read_and_written_meanwhile_and_removed_by_who_holds_it(storage: Storage) -> None:
    lock = storage.lock("chain/pin")
    appender = storage.modify("chain/pin")
    appender.write(0, [b"who reads"])
    appender.sync()
    appender.close()
    assert storage.read("chain/pin", 0, 100) == b"who reads"
    storage.remove("chain/pin")
    lock.release()
    assert storage.list("chain/") == ()
