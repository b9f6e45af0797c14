"""A repository: a directory with an identity file, and the rules about its free space."""

import contextlib
import os
from pathlib import Path
from typing import Final

import msgspec

from vbrcore.model.errors import (
    AlreadyExists,
    FormatNewer,
    InvalidValue,
    NotFound,
    RepositoryExists,
    RepositoryNotEmpty,
    RepositoryNotMounted,
    VbrError,
)
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.storage.local import LocalStorage, storage_errors, writing_errors

IDENTITY_NAME: Final = "vbrcore-repository.json"
_FORMAT = "vbrcore repository"
_IDENTITY_VERSION = 1
_MAX_IDENTITY_BYTES = 64 * 1024
# What a newly made file system holds; it does not make a directory non-empty.
_IGNORED = frozenset({"lost+found"})
GIB: Final = 1024**3


class Identity(msgspec.Struct, frozen=True):
    """The content of the identity file, as JSON."""

    format: str
    version: int
    repository_id: str


class Space(msgspec.Struct, frozen=True):
    """A repository's file system. `reserve_bytes` is what tasks must leave free."""

    size_bytes: int
    free_bytes: int
    reserve_bytes: int

    @property
    def below_reserve(self) -> bool:
        """No new task may start."""
        return self.free_bytes < self.reserve_bytes

    @property
    def below_half_reserve(self) -> bool:
        """Running tasks stop cleanly."""
        return self.free_bytes * 2 < self.reserve_bytes


def create_repository(path: Path, repository_id: str) -> None:
    """Make a directory a repository: it must be absent (its parent is not) or empty.

    Raises `RepositoryExists`, `RepositoryNotEmpty`, `InvalidValue`, `RepositoryReadOnly`, `RepositoryFull`.
    """
    if not path.is_absolute():
        raise InvalidValue(f"a repository's path must be absolute: {path}")
    if path.exists() and not path.is_dir():
        raise RepositoryNotEmpty(f"{path} is no directory")
    made = not path.exists()
    try:
        with writing_errors(path):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
    except (NotFound, AlreadyExists) as error:  # a file, or a link to nowhere, is in the way
        raise InvalidValue(f"{path} cannot be made a directory") from error
    if IDENTITY_NAME in names:
        raise RepositoryExists(f"{path} is a repository already")
    if names - _IGNORED:
        raise RepositoryNotEmpty(f"{path} is not empty")
    try:
        _write_identity(path, Identity(_FORMAT, _IDENTITY_VERSION, repository_id))
    except VbrError:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def adopt_repository(path: Path, repository_id: str) -> None:
    """Write the identity of a directory that has backup files and lost its own. As `create_repository`."""
    _write_identity(path, Identity("vbrcore repository", _IDENTITY_VERSION, repository_id))


def _write_identity(path: Path, identity: Identity) -> None:
    """Write the identity file, or leave none behind."""
    file_path = path / IDENTITY_NAME
    with writing_errors(path):
        try:
            file = file_path.open("xb")
        except FileExistsError as error:
            raise RepositoryExists(f"{path} became a repository just now") from error
        try:
            with file:
                file.write(msgspec.json.format(msgspec.json.encode(identity)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
            LocalStorage(path).sync_directory("")
        except BaseException:
            file_path.unlink(missing_ok=True)
            raise


def read_identity(path: Path) -> Identity:
    """Return a repository's identity. Raises `RepositoryNotMounted` when path or file is missing or unreadable."""
    try:
        with (path / IDENTITY_NAME).open("rb") as file:
            data = file.read(_MAX_IDENTITY_BYTES)
        identity = msgspec.json.decode(data, type=Identity)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RepositoryNotMounted(f"{path} has no {IDENTITY_NAME}") from error
    except UNDECODABLE as error:
        raise RepositoryNotMounted(f"{path / IDENTITY_NAME} is damaged: {error}") from error
    except OSError as error:
        raise RepositoryNotMounted(f"{path / IDENTITY_NAME} cannot be read: {error.strerror}") from error
    if identity.format != _FORMAT:
        raise RepositoryNotMounted(f"{path / IDENTITY_NAME} is of something else: {identity.format[:40]!r}")
    if identity.version > _IDENTITY_VERSION:
        raise FormatNewer(f"{path} was made by a later version")
    return identity


def open_repository(path: Path, repository_id: str) -> LocalStorage:
    """Return the storage at a repository's root. Raises `RepositoryNotMounted`; never makes anything."""
    found = read_identity(path).repository_id
    if found != repository_id:
        raise RepositoryNotMounted(f"{path} holds repository {found}, not {repository_id}")
    return LocalStorage(path)


def repository_space(path: Path, reserve_bytes: int | None = None) -> Space:
    """Return size, free bytes and reserve of a path's file system; `reserve_bytes` None: `reserve_of`."""
    with storage_errors(path):
        status = os.statvfs(path)
    size_bytes = status.f_blocks * status.f_frsize
    if reserve_bytes is None:
        reserve_bytes = reserve_of(size_bytes)
    return Space(size_bytes, status.f_bavail * status.f_frsize, reserve_bytes)


def reserve_of(size_bytes: int) -> int:
    """Return what a file system keeps free by default: 10 %, at least 5 GiB, but never more than 20 %."""
    return min(max(size_bytes // 10, 5 * GIB), size_bytes // 5)
