"""The storage port on a directory of a local (or mounted) file system."""

import contextlib
import errno
import fcntl
import functools
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from vbrcore.model.errors import (
    AlreadyExists,
    ChainLocked,
    NotFound,
    PermissionRefused,
    RepositoryFull,
    RepositoryReadOnly,
    StorageFailed,
)
from vbrcore.storage import linux
from vbrcore.storage.names import check_name
from vbrcore.storage.port import ALIGNMENT_BYTES, SLOT_BYTES, Buffer, check_aligned, whole_blocks

# Written bytes are handed to the disk in steps of this size, while later ones still arrive: the sync of a commit then
# finds little left to do, and the page cache does not fill with what nobody reads again.
_WRITEBACK_BYTES = 8 * 1024 * 1024
_BLOCK_BYTES = frozenset({8192, 16384, 32768, 65536})
_FILE_SYSTEMS_OWN = "lost+found"
_STAT_BLOCK_BYTES = 512
_FLOCK = struct.Struct("hhqqi4x")


@contextlib.contextmanager
def storage_errors(what: object) -> Iterator[None]:
    """Turn an `OSError` into the error of the port that names `what`."""
    try:
        yield
    except OSError as error:
        message = f"{what}: {error.strerror or error}"
        if isinstance(error, FileNotFoundError | NotADirectoryError):
            raise NotFound(message) from error
        if isinstance(error, FileExistsError):
            raise AlreadyExists(message) from error
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise RepositoryFull(message) from error
        if error.errno == errno.EROFS:
            raise RepositoryReadOnly(message) from error
        if isinstance(error, PermissionError):
            raise PermissionRefused(message) from error
        raise StorageFailed(message) from error


@contextlib.contextmanager
def writing_errors(what: object) -> Iterator[None]:
    """Like `storage_errors`; a permission that is missing for writing means a read-only repository."""
    try:
        with storage_errors(what):
            yield
    except PermissionRefused as error:
        raise RepositoryReadOnly(str(error)) from error


class LocalAppender:
    """See `port.Appender`."""

    def __init__(self, storage: "LocalStorage", path: Path, flags: int) -> None:
        self._storage = storage
        self._path = path
        self._fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lock = threading.Lock()
        self._unflushed_bytes = 0
        self._flushed_to = 0
        self._failed = False

    def write(self, offset: int, parts: Sequence[Buffer]) -> None:
        self._check()
        with writing_errors(self._path):
            length = _write_all(self._fd, offset, parts)
        self._write_back(offset, length)

    def clone_range(self, source: str, source_offset: int, offset: int, length: int) -> None:
        check_aligned(self._storage.alignment_bytes, source_offset, offset, length)
        source_path = self._storage.path_of(source)
        self._check()
        with writing_errors(source_path):
            linux.clone_range(source_path, source_offset, self._fd, offset, length)

    def write_slot(self, offset: int, data: Buffer) -> None:
        if len(data) != SLOT_BYTES:
            raise ValueError(f"a slot has {SLOT_BYTES} bytes")
        self._check()
        with writing_errors(self._path):
            _write_all(self._fd, offset, [data])

    def sync(self) -> None:
        self._check()
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            # The kernel has dropped what it could not write: a second try would report success and be wrong.
            self._failed = True
            raise StorageFailed(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with storage_errors(self._path):
                os.close(fd)

    def _check(self) -> None:
        if self._failed or self._fd < 0:
            raise StorageFailed(f"{self._path}: not written to after an error or its end")

    def _write_back(self, offset: int, length: int) -> None:
        if self._storage.stores_in_pieces:
            linux.start_write_back(self._fd, offset, length)
            return
        end = offset + length
        with self._lock:
            self._unflushed_bytes += length
            if self._unflushed_bytes < _WRITEBACK_BYTES:
                return
            start, self._flushed_to, self._unflushed_bytes = self._flushed_to, max(end, self._flushed_to), 0
        linux.start_write_back(self._fd, start, end - start)


class LocalReader:
    """See `port.Reader`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)

    @property
    def size_bytes(self) -> int:
        with storage_errors(self._path):
            return os.fstat(self._fd).st_size

    def read_into(self, offset: int, parts: Sequence[bytearray | memoryview]) -> int:
        views = [memoryview(part).cast("B") for part in parts]
        done = 0
        with storage_errors(self._path):
            while views:
                count = os.preadv(self._fd, views, offset + done)
                if count == 0:
                    break
                done += count
                views = _skip(views, count)
        return done

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LocalLock:
    """An OFD lock: it belongs to the open file, so it ends when the last process that inherited it is gone."""

    def __init__(self, path: Path) -> None:
        with writing_errors(path):
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        except OSError as error:
            self.release()
            if error.errno in {errno.EAGAIN, errno.EACCES}:
                raise ChainLocked(f"{path} is held by another process") from error
            raise StorageFailed(f"{path}: {error.strerror}") from error
        if not os.fstat(self._fd).st_nlink:  # removed with its chain between our opening and locking it
            self.release()
            raise ChainLocked(f"{path} was removed just now")

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class LocalStorage:
    """See `port.Storage`. `root` must exist."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @functools.cached_property
    def alignment_bytes(self) -> int:
        with storage_errors(self.root):
            block_bytes = os.statvfs(self.root).f_frsize
        # Shares report what they like to transfer at once, up to megabytes: that is no block.
        return block_bytes if block_bytes in _BLOCK_BYTES else ALIGNMENT_BYTES

    @functools.cached_property
    def stores_in_pieces(self) -> bool:
        """Say whether what is written out in one go comes back in one go only.

        Btrfs stores it as one piece of up to 128 MiB, and gives nothing of a piece back before all of it is in holes.
        So each write is handed to the disk by itself there, and is a piece of its own.
        """
        with storage_errors(self.root):
            return linux.is_btrfs(self.root)

    def create(self, name: str) -> LocalAppender:
        path = self.path_of(name)
        with writing_errors(path):
            self._make_directories(path.parent)
            return LocalAppender(self, path, os.O_RDWR | os.O_CREAT | os.O_EXCL)

    def modify(self, name: str) -> LocalAppender:
        path = self.path_of(name)
        with writing_errors(path):
            return LocalAppender(self, path, os.O_RDWR)

    def open_reader(self, name: str) -> LocalReader:
        path = self.path_of(name)
        with storage_errors(path):
            return LocalReader(path)

    def read(self, name: str, offset: int, length: int) -> bytes:
        reader = self.open_reader(name)
        try:
            buffer = bytearray(max(0, min(length, reader.size_bytes - offset)))
            count = reader.read_into(offset, [buffer]) if buffer else 0
            return bytes(memoryview(buffer)[:count])
        finally:
            reader.close()

    def size(self, name: str) -> int:
        path = self.path_of(name)
        with storage_errors(path):
            return path.stat().st_size

    def allocated_bytes(self, name: str) -> int:
        path = self.path_of(name)
        with storage_errors(path):
            return path.stat().st_blocks * _STAT_BLOCK_BYTES

    def list(self, prefix: str) -> tuple[str, ...]:
        start = self.path_of(prefix) if prefix else self.root
        names = []
        with storage_errors(start):
            for directory, children, files in os.walk(start, onerror=_raise_unless_absent):
                if _FILE_SYSTEMS_OWN in children:
                    children.remove(_FILE_SYSTEMS_OWN)
                base = Path(directory).relative_to(self.root)
                names += [str(base / file) for file in files]
        return tuple(sorted(names))

    def sync_directory(self, prefix: str) -> None:
        path = self.path_of(prefix) if prefix else self.root
        with writing_errors(path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def truncate(self, name: str, size_bytes: int) -> None:
        path = self.path_of(name)
        with writing_errors(path):
            os.truncate(path, size_bytes)

    def punch(self, name: str, offset: int, length: int) -> None:
        path = self.path_of(name)
        start, length = whole_blocks(offset, length, self.alignment_bytes)
        if length:
            with writing_errors(path):
                linux.punch_hole(path, start, length)

    def rename(self, name: str, new_name: str) -> None:
        path, new_path = self.path_of(name), self.path_of(new_name)
        with writing_errors(path):
            # Not one step, as not every file system has that; a chain has one writer.
            if os.path.lexists(new_path):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new_path))
            path.rename(new_path)

    def remove(self, name: str) -> None:
        path = self.path_of(name)
        with writing_errors(path):
            path.unlink()

    def remove_directory(self, prefix: str) -> None:
        path = self.path_of(prefix)
        with writing_errors(path), contextlib.suppress(FileNotFoundError):
            try:
                path.rmdir()
            except OSError as error:
                if error.errno != errno.ENOTEMPTY:
                    raise

    def lock(self, name: str) -> LocalLock:
        path = self.path_of(name)
        with writing_errors(path):
            self._make_directories(path.parent)
        return LocalLock(path)

    def free_bytes(self) -> int:
        with storage_errors(self.root):
            status = os.statvfs(self.root)
        return status.f_bavail * status.f_frsize

    def capacity_bytes(self) -> int:
        with storage_errors(self.root):
            status = os.statvfs(self.root)
        return status.f_blocks * status.f_frsize

    def path_of(self, name: str) -> Path:
        """Return where a file of this storage lies. Raises `InvalidValue`."""
        return self.root / check_name(name)

    def _make_directories(self, path: Path) -> None:
        """Make a chain's directory, durable by name; the root itself is never made."""
        if path == self.root or path.is_dir():
            return
        self._make_directories(path.parent)
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        self.sync_directory(str(path.parent.relative_to(self.root)) if path.parent != self.root else "")


def _raise_unless_absent(error: OSError) -> None:
    """A directory that cannot be read must never look like an empty one: a writer would begin a chain anew."""
    if not isinstance(error, FileNotFoundError):
        raise error


def _write_all(fd: int, offset: int, parts: Sequence[Buffer]) -> int:
    """Write all parts from `offset`, as few calls as the kernel allows; return their length."""
    total = sum(map(len, parts))
    count = os.pwritev(fd, parts, offset)
    done = count
    if done < total:
        views = _skip([memoryview(part) for part in parts], count)
        while done < total:
            count = os.pwritev(fd, views, offset + done)
            views = _skip(views, count)
            done += count
    return total


def _skip(views: list[memoryview], count: int) -> list[memoryview]:
    """Return what is left of `views` after `count` bytes."""
    while views and count >= len(views[0]):
        count -= len(views[0])
        views = views[1:]
    if count:
        views = [views[0][count:], *views[1:]]
    return views
