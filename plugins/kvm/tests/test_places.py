"""Who reaches the socket directory: QEMU's account and ours, and nobody else, whoever we are."""

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from vbr_kvm import places
from vbrcore.model.errors import PermissionRefused

OURS, QEMU, STRANGER = 65001, 65002, 65003
TEMPORARY = Path("/var/tmp")  # noqa: S108 (on a disk, and QEMU's user can enter it)


@pytest.fixture
def root() -> Iterator[Path]:
    path = TEMPORARY / "vbrtest-places"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    path.chmod(0o777)
    yield path
    shutil.rmtree(path)


@contextmanager
def acting_as(user: int) -> Iterator[None]:
    """Be another account, without root's capabilities, for a block."""
    groups = os.getgroups()
    os.setgroups([])
    os.setresgid(user, user, 0)
    os.setresuid(user, user, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups(groups)


def reaches(user: int, path: Path) -> bool:
    with acting_as(user), socket.socket(socket.AF_UNIX) as sock:
        try:
            sock.connect(str(path))
        except PermissionError:
            return False
    return True


@contextmanager
def listening_as(user: int, path: Path) -> Iterator[None]:
    """Bind a socket as libvirt's QEMU does: as its user, with its file mode mask."""
    mask = os.umask(0o002)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            with acting_as(user):
                listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen()
        yield


def test_an_account_that_is_neither_root_nor_qemus(root: Path) -> None:
    directory = root / "vbrcore" / "vbr-1"
    with acting_as(OURS):
        places.make_socket_directory(directory, (QEMU, QEMU))
    with listening_as(QEMU, directory / "s"):
        assert [reaches(user, directory / "s") for user in (OURS, QEMU, STRANGER)] == [True, True, False]
    with acting_as(OURS):
        places.remove_socket_directory(directory)
    assert not directory.exists()


def test_the_account_that_qemu_runs_as(root: Path) -> None:
    directory = root / "vbrcore" / "vbr-2"
    with acting_as(OURS):
        places.make_socket_directory(directory, (OURS, OURS))
    assert directory.stat().st_mode & 0o777 == 0o700
    with listening_as(OURS, directory / "s"):
        assert [reaches(user, directory / "s") for user in (OURS, STRANGER)] == [True, False]


def test_root_gives_the_directory_to_qemu(root: Path) -> None:
    directory = root / "vbrcore" / "vbr-3"
    places.make_socket_directory(directory, (QEMU, QEMU))
    found = directory.stat()
    assert (found.st_uid, found.st_mode & 0o777) == (QEMU, 0o700)
    places.make_socket_directory(directory, (QEMU, QEMU))
    assert list(directory.iterdir()) == []


def test_a_directory_that_others_prepared_is_refused(root: Path) -> None:
    os.chown(root, STRANGER, STRANGER)
    with pytest.raises(PermissionRefused):
        places.make_socket_directory(root / "vbr-4", (QEMU, QEMU))
    (root / "link").symlink_to(TEMPORARY)
    with pytest.raises(PermissionRefused):
        places.make_socket_directory(root / "link" / "vbr-4", (QEMU, QEMU))


def test_long_names_still_fit_a_socket() -> None:
    name = "vbr-01234567-01234567-1"
    root = Path("/run/libvirt/vbrcore")
    assert places.socket_path(root, name, "web").name == "s.tunnelmigrate.dest.web"
    assert len(str(places.socket_path(root, name, "w" * 200))) < places.SOCKET_PATH_BYTES
