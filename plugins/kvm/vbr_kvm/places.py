"""Where a backup's socket and scratch files lie, and who may reach them.

QEMU and the mover meet in one directory per backup. QEMU's user and the mover's are the only ones who can enter it:
- root: the directory belongs to QEMU's user, mode 0700; root reaches it anyway.
- the account QEMU runs as (qemu:///session): it is the account's own, mode 0700.
- another account (a member of group libvirt, using qemu:///system): it is the account's own, with an ACL for QEMU's
  user, and a default ACL by which the socket, which QEMU makes, lets the account in.
"""

import errno
import os
import shutil
import stat
import struct
from pathlib import Path

from vbr_kvm.settings import KvmSettings, is_users_own
from vbrcore.model.errors import HypervisorFailed, InvalidValue, PermissionRefused, ScratchFull

SOCKET_PATH_BYTES = 107  # Linux: sun_path without its end
# With AppArmor, libvirt lets QEMU make no sockets but in the domain's own directory (which is not 0700), and below
# /run/libvirt with this in the name, followed by the domain's name. Nothing here is about migration.
_SOCKET = "s.tunnelmigrate.dest."
ENDED = "ended"
_UNDEFINED = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x10, 0x20


def runtime_root(uri: str) -> Path:
    """Return the directory that holds the directories of running backups."""
    if is_users_own(uri):
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        return Path(runtime) / "vbrcore-kvm" if runtime else Path(f"/var/tmp/vbrcore-kvm-session-{os.getuid()}")  # noqa: S108 (owner is checked)
    if os.getuid() == 0:
        return Path("/run/libvirt/vbrcore")
    return Path(f"/var/tmp/vbrcore-kvm-{os.getuid()}")  # noqa: S108 (owner is checked; QEMU's user cannot enter a home)


def scratch_root(settings: KvmSettings) -> Path:
    """Return the directory for scratch files; it must be on a disk, not in memory."""
    if settings.scratch_directory:
        return Path(settings.scratch_directory)
    if is_users_own(settings.uri):
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
        return Path(data) / "libvirt" / "vbrcore-scratch"
    if os.getuid() == 0:
        return Path("/var/lib/libvirt/vbrcore-scratch")
    return runtime_root(settings.uri) / "scratch"


def images_root(uri: str) -> Path:
    """Return libvirt's own directory for images."""
    if is_users_own(uri):
        data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local/share")
        return Path(data) / "libvirt/images"
    return Path("/var/lib/libvirt/images")


def socket_path(root: Path, name: str, domain: str) -> Path:
    """Return the socket of a backup; the domain's name stands in it for AppArmor where it fits."""
    long = root / name / f"{_SOCKET}{domain}"
    return long if len(os.fsencode(long)) <= SOCKET_PATH_BYTES else root / name / "s"


def make_socket_directory(path: Path, qemu: tuple[int, int]) -> None:
    """Make a backup's own directory, empty. Raises `PermissionRefused` or `HypervisorFailed`."""
    try:
        _make_root(path.parent)
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(mode=0o700)
        user, group = qemu
        if os.getuid() == 0:
            os.chown(path, user, group)
        elif user != os.getuid():
            grant(path, user)
    except PermissionError as error:
        raise PermissionRefused(f"directory for QEMU's backup socket: {error}") from error
    except OSError as error:
        raise HypervisorFailed(f"directory for QEMU's backup socket: {error}") from error


def _make_root(path: Path) -> None:
    """Make a directory that QEMU's user can pass through and nobody else can list or write."""
    path.mkdir(mode=0o711, parents=True, exist_ok=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise PermissionRefused(f"{path} is not a directory of this account, or others can write to it")
    path.chmod(0o711)


def grant(path: Path, user: int) -> None:
    """Let one more user into a directory of ours, and ourselves into what that user makes in it (POSIX ACL)."""
    entries = {
        "system.posix_acl_access": ((_USER_OBJ, 7, _UNDEFINED), (_USER, 7, user)),
        "system.posix_acl_default": ((_USER_OBJ, 7, _UNDEFINED), (_USER, 7, os.getuid())),
    }
    tail = ((_GROUP_OBJ, 0, _UNDEFINED), (_MASK, 7, _UNDEFINED), (_OTHER, 0, _UNDEFINED))
    for name, head in entries.items():
        packed = b"".join(struct.pack("<HHI", *entry) for entry in (*head, *tail))
        try:
            os.setxattr(path, name, struct.pack("<I", 2) + packed)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:
                raise PermissionRefused(f"{path}: no ACLs here to let QEMU's user in") from error
            raise


def make_scratch_root(path: Path) -> None:
    """Make the scratch directory. libvirt makes the files in it, so that it needs no rights for QEMU but passage."""
    try:
        if not path.is_dir():
            path.mkdir(parents=True)
            path.chmod(0o711)  # whatever the service's umask says
    except OSError as error:
        raise InvalidValue(f"scratch_directory {path}: {error}") from error


def scratch_file(root: Path, name: str, target: str) -> Path:
    return root / f"{name}.{target}.scratch"


def remove_scratch_files(root: Path, name: str) -> None:
    """Remove what libvirt left behind (it removes them itself unless it was killed)."""
    if root.is_dir() and os.access(root, os.R_OK | os.W_OK):
        for path in root.glob(f"{name}.*.scratch"):
            path.unlink(missing_ok=True)


def reserve_bytes(settings: KvmSettings, size_bytes: int) -> int:
    """Return how much must stay free on a file system of this size."""
    if settings.scratch_reserve_bytes is not None:
        return settings.scratch_reserve_bytes
    return min(size_bytes // 10, 1 << 30)


def check_scratch(root: Path, free: int, reserve: int) -> None:
    """Raise `ScratchFull` if less than `reserve` bytes are free."""
    if free < reserve:
        raise ScratchFull(f"{root}: {free} bytes free, {reserve} must stay free during a backup")


def write_ended(directory: Path, reason: str) -> None:
    """Leave a note for readers why their source is going away."""
    (directory / ENDED).write_text(reason, encoding="utf-8")


def ended_reason(directory: Path) -> str:
    try:
        return (directory / ENDED).read_text(encoding="utf-8")
    except OSError:
        return ""


def remove_socket_directory(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
