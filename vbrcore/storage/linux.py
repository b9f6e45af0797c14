"""What a Linux file system can do beyond POSIX: start writing back, punch holes, share ranges; and which it is."""

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

from vbrcore.model.errors import CapabilityMissing

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("qQQQ")
_SYNC_FILE_RANGE_WRITE = 2
_BTRFS_MAGIC = 0x9123683E
_STATFS_BYTES = 256  # more than any kernel's structure; its first long is the type
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY, errno.EXDEV, errno.EINVAL})

_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
_libc.statfs.argtypes = [ctypes.c_char_p, ctypes.c_void_p]


def is_btrfs(path: Path) -> bool:
    """Raises `OSError`."""
    found = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.statfs(os.fsencode(path), found):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    return ctypes.c_long.from_buffer(found).value == _BTRFS_MAGIC


def start_write_back(fd: int, offset: int, length: int) -> None:
    """Ask the kernel to begin writing a range, without waiting. A hint: what fails here is reported by the sync."""
    _libc.sync_file_range(fd, offset, length, _SYNC_FILE_RANGE_WRITE)


def punch_hole(path: Path, offset: int, length: int) -> None:
    """Give a range back. Raises `CapabilityMissing` or `OSError`."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if _libc.fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, length):
            _raise(path, "punch", ctypes.get_errno())
    finally:
        os.close(fd)


def clone_range(source: Path, source_offset: int, target_fd: int, offset: int, length: int) -> None:
    """Share a range. Raises `CapabilityMissing` or `OSError`.

    The kernel writes back what is dirty in the source's range first, so the target gets what a reader would see.
    """
    source_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        if os.fstat(source_fd).st_size < source_offset + length:  # the ioctl's EINVAL would not tell
            raise OSError(errno.EIO, "ends before the range to be shared", str(source))
        try:
            fcntl.ioctl(target_fd, _FICLONERANGE, _CLONE_RANGE.pack(source_fd, source_offset, length, offset))
        except OSError as error:
            _raise(source, "clone", error.errno or errno.EIO)
    finally:
        os.close(source_fd)


def _raise(path: Path, capability: str, number: int) -> None:
    if number in _UNSUPPORTED:
        raise CapabilityMissing(f"{path}: the file system cannot {capability}")
    raise OSError(number, os.strerror(number), str(path))
