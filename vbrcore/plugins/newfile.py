"""A new file that gets its name when it is complete: nobody sees half a file, and nothing is left of one.

It is made without a name (O_TMPFILE), so the kernel gives it back when whoever writes it is killed. Where the file
system knows no such files (NFS, SMB, FAT), it lies in a private directory beside its place instead, named `.vbr-...`;
only there something can stay behind, and only after a kill.
"""

import contextlib
import ctypes
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from vbrcore.model.errors import AlreadyExists, OutputRefused, SinkWriteFailed
from vbrcore.plugins.api import Confinement

_SYNC_FILE_RANGE_WRITE = 2
_WRITE_BACK_BYTES = 32 * 1024 * 1024
_NO_UNNAMED_FILES = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP})
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]


class NewFile:
    """An open, empty file of mode 0600, its place still free. `unnamed` is false to do without O_TMPFILE.

    `descriptor` is for reading and writing; programs of the same user may open it as `process_path`.
    Raises `AlreadyExists`, `OutputRefused` for a place outside `confinement`, `SinkWriteFailed`.
    """

    def __init__(self, path: str, confinement: Confinement | None = None, *, unnamed: bool = True) -> None:
        self.path = path
        self.descriptor = -1
        self._name = Path(path).name
        self._confinement = confinement
        self._staging = ""
        self._since_written = 0
        self._directory = _open_parent(path, confinement)
        try:
            with _failures(path, "cannot be created"):
                self._check_free()
                if not (unnamed and self._make_unnamed()):
                    self._make_staged()
        except BaseException:
            self.close()
            raise

    @property
    def process_path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def open_direct(self) -> int:
        """Return another descriptor of the file, for writes past the page cache; -1 where there are none (tmpfs)."""
        try:
            return os.open(f"/proc/self/fd/{self.descriptor}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.EOPNOTSUPP}:
                return -1
            raise SinkWriteFailed(f"{self.path} cannot be opened: {error.strerror}") from error

    def wrote(self, length: int) -> None:
        """Now and then have the kernel begin to write back, so that little is left for `commit` to wait for."""
        self._since_written += length
        if self._since_written >= _WRITE_BACK_BYTES:
            self._since_written = 0
            # A hint: what fails here is reported by the sync.
            _libc.sync_file_range(self.descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)

    def commit(self) -> None:
        """Make the file durable, give it to its owner, then its name. Raises `AlreadyExists`, `SinkWriteFailed`."""
        with _failures(self.path, "was not made durable"):
            os.fchmod(self.descriptor, 0o600)
            if self._confinement is not None and self._confinement.uid >= 0:
                os.fchown(self.descriptor, self._confinement.uid, self._confinement.gid)
            os.fsync(self.descriptor)
            self._link()
            self._remove_staging()
            os.fsync(self._directory)

    def close(self) -> None:
        """Without `commit` nothing remains. Idempotent."""
        self._remove_staging()
        for descriptor in (self.descriptor, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._directory = -1

    def _check_free(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            raise AlreadyExists(f"{self.path} exists already")

    def _make_unnamed(self) -> bool:
        try:
            flags = os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC
            self.descriptor = os.open(".", flags, 0o600, dir_fd=self._directory)
        except OSError as error:
            if error.errno not in _NO_UNNAMED_FILES:
                raise
            return False
        return True

    def _make_staged(self) -> None:
        staging = f".vbr-{secrets.token_hex(8)}"
        os.mkdir(staging, 0o700, dir_fd=self._directory)
        self._staging = f"{staging}/{self._name}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self._staging, flags, 0o600, dir_fd=self._directory)

    def _link(self) -> None:
        """Name the open file itself, whatever may lie at its first place by now. A taken name is never replaced."""
        try:
            os.link(f"/proc/self/fd/{self.descriptor}", self._name, dst_dir_fd=self._directory, follow_symlinks=True)
        except OSError as error:
            if error.errno not in _NO_LINKS or not self._staging or self._confinement is not None:
                raise
            self._check_free()  # FAT has no links, and renaming replaces
            os.rename(self._staging, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def _remove_staging(self) -> None:
        if self._staging:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._staging, dir_fd=self._directory)
            os.rmdir(Path(self._staging).parent, dir_fd=self._directory)
            self._staging = ""


def place_below(path: Path, directories: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """Return which of `directories` a path lies below, and the names that lead from there to the file.

    Looks at the text only, so that it holds whatever is exchanged on disk meanwhile. Raises `OutputRefused`.
    """
    if path.is_absolute() and ".." not in path.parts:
        for directory in directories:
            for base in (Path(directory), Path(os.path.realpath(directory))):
                if path != base and path.is_relative_to(base):
                    return base, path.relative_to(base).parts
    allowed = ", ".join(directories) or "none is configured"
    raise OutputRefused(f"{path} lies in no restore directory of the service ({allowed})")


def _open_parent(path: str, confinement: Confinement | None) -> int:
    """Open the directory of a new file; with a confinement link by link, following none below its directory."""
    if confinement is None:
        with _failures(path, "cannot be created"):
            return os.open(Path(path).parent, _DIRECTORY)
    base, names = place_below(Path(path), confinement.directories)
    with _failures(path, "cannot be created"):
        descriptor = os.open(base, _DIRECTORY)
    for name in names[:-1]:
        try:
            inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=descriptor)
        except OSError as error:
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                raise OutputRefused(f"{path}: {name} is a link or no directory, and is not followed") from error
            raise SinkWriteFailed(f"{path} cannot be created: {error.strerror}") from error
        finally:
            os.close(descriptor)
        descriptor = inner
    return descriptor


@contextlib.contextmanager
def _failures(path: str, what: str) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise AlreadyExists(f"{path} exists already") from error
    except OSError as error:
        raise SinkWriteFailed(f"{path} {what}: {error.strerror}") from error
