"""A share as a storage: who is let in, and what a lost connection means."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from vbrcore.model.errors import ChainLocked, InvalidValue, ShareRefused, ShareUnreachable, StorageFailed
from vbrcore.model.place import PASSWORD, Place, Share, share_of
from vbrcore.storage import smbwire
from vbrcore.storage.smb import SmbLock, SmbStorage
from vbrcore.testing.smbd import PASSWORD_TEXT, Smbd, free_port

MIB = 1024 * 1024


@pytest.fixture
def storage(smbd: Smbd) -> Iterator[SmbStorage]:
    storage = SmbStorage(smbd.place("data"))
    yield storage
    storage.close()


def configured(home: Path, options: str) -> Smbd:
    (home / "data").mkdir()
    server = Smbd(home / "other", options=options)
    server.share("data", home / "data")
    server.start()
    return server


@pytest.mark.parametrize(
    ("url", "share"),
    [
        ("//nas/backup", Share("nas", "backup")),
        ("//nas:1445/backup/a/b/", Share("nas", "backup", "a/b", 1445)),
        ("//[fe80::1]/backup", Share("fe80::1", "backup")),
    ],
)
def test_a_share_is_named_by_its_url(url: str, share: Share) -> None:
    assert share_of(url) == share
    assert str(share) == url.rstrip("/")


@pytest.mark.parametrize(
    "url", ["", "nas/backup", "//nas", "//nas/", "//nas//x", "//nas/a/../b", "//nas:0/x", "//na s/x", "//nas/a:b", "/x"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(InvalidValue):
        share_of(url)


def test_everything_that_goes_out_is_encrypted(storage: SmbStorage) -> None:
    connection = storage._wire._connection
    session = next(iter(connection.session_table.values()))
    assert (session.encrypt_data, connection.dialect) == (True, 0x311)


def test_who_is_not_let_in_is_told_why(smbd: Smbd) -> None:
    place = smbd.place("data")
    wrong = msgspec.structs.replace(place, secrets={PASSWORD: "a wrong one"})
    with pytest.raises(ShareRefused, match="logon failure") as refused:
        SmbStorage(wrong)
    assert "a wrong one" not in f"{refused.value!r} {wrong!r} {wrong}"
    with pytest.raises(ShareRefused, match="no such share"):
        SmbStorage(smbd.place("other"))
    assert PASSWORD_TEXT not in f"{place!r} {place}"


def test_a_host_where_nobody_listens_is_unreachable() -> None:
    place = Place(share=Share("127.0.0.1", "data", port=free_port()), username="u", secrets={PASSWORD: "p"})
    with pytest.raises(ShareUnreachable):
        SmbStorage(place)


@pytest.mark.parametrize(
    "options", ["server max protocol = SMB2_10", "map to guest = bad password\nguest account = nobody"]
)
def test_an_old_protocol_and_guests_are_refused(tmp_path: Path, options: str) -> None:
    server = configured(tmp_path, options)
    place = server.place("data")
    try:
        with pytest.raises(ShareRefused):
            SmbStorage(
                msgspec.structs.replace(place, secrets={PASSWORD: "a wrong one"}) if "guest" in options else place
            )
    finally:
        server.kill()


def test_a_server_that_cannot_encrypt_signs_and_unsigned_messages_are_not_believed(tmp_path: Path) -> None:
    server = configured(tmp_path, "server smb encrypt = off")
    try:
        storage = SmbStorage(server.place("data"))
        connection = storage._wire._connection
        session = next(iter(connection.session_table.values()))
        assert not session.encrypt_data
        appender = storage.create("a")
        appender.write(0, [b"signed"])
        appender.close()
        assert storage.read("a", 0, 6) == b"signed"
        session.encrypt_data = True  # as if the server had agreed to encrypt, and somebody else answered
        with pytest.raises(StorageFailed):
            storage.size("a")
        storage.close()
    finally:
        server.kill()


def test_what_a_share_cannot_name_is_refused(storage: SmbStorage) -> None:
    for name in ("a:b", "a\\b", "a?", "a.", "a ", "a*/b"):
        with pytest.raises(InvalidValue):
            storage.create(name)


HOLDER = """
import msgspec, sys, time
from vbrcore.model.place import Place
from vbrcore.storage.smb import SmbStorage
lock = SmbStorage(msgspec.json.decode(sys.stdin.buffer.readline(), type=Place)).lock('c/l')
print('held', flush=True)
time.sleep(60)
"""


def test_a_lock_dies_with_its_process(smbd: Smbd, storage: SmbStorage) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        child.stdin.write(msgspec.json.encode(smbd.place("data")) + b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"held\n"
        with pytest.raises(ChainLocked):
            storage.lock("c/l")
        os.kill(child.pid, signal.SIGSTOP)  # only cut off: still held
        with pytest.raises(ChainLocked):
            storage.lock("c/l")
        child.kill()
        child.wait()
        lock_soon(storage, "c/l").release()


def lock_soon(storage: SmbStorage, name: str) -> SmbLock:
    """The server learns of the end of a connection by itself, a moment later."""
    for _ in range(200):
        try:
            return storage.lock(name)
        except ChainLocked:
            time.sleep(0.05)
    return storage.lock(name)


def test_a_writer_whose_server_dies_fails_and_never_goes_on(smbd: Smbd, storage: SmbStorage) -> None:
    appender = storage.create("chain/a.vbf")
    appender.write(0, [b"s" * 4096])
    appender.sync()
    lock = storage.lock("chain/lock")
    reached = threading.Event()
    failed: list[BaseException] = []

    def write() -> None:
        try:
            for number in range(1, 100_000):
                appender.write(number * MIB, [bytes(MIB)])
                reached.set()
        except StorageFailed as error:
            failed.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert reached.wait(60)
    smbd.kill()
    thread.join(60)
    assert not thread.is_alive()
    assert failed
    smbd.start()  # what it comes back with is not what the writer had open and locked
    for attempt in (
        lambda: appender.write(0, [b"x"]),
        appender.sync,
        lambda: storage.create("chain/b.vbf"),
        lambda: storage.remove("chain/a.vbf"),
        lambda: storage.list(""),
    ):
        with pytest.raises(StorageFailed):
            attempt()
    lock.release()
    appender.close()
    successor = SmbStorage(smbd.place("data"))
    successor.lock("chain/lock").release()
    assert successor.read("chain/a.vbf", 0, 4096) == b"s" * 4096
    successor.close()


def test_a_server_that_says_nothing_is_lost_in_time(smbd: Smbd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smbwire, "QUIET_S", 1)
    storage = SmbStorage(smbd.place("data"))
    appender = storage.create("a")
    smbd.signal(signal.SIGSTOP)
    with pytest.raises(StorageFailed):
        appender.write(0, [bytes(64 * MIB)])  # more than any buffer on the way takes in
    with pytest.raises(StorageFailed):
        storage.size("a")
    storage.close()
