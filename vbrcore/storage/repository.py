"""A repository: a directory with an identity file, and the rules about its free space."""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from vbrcore.model.errors import (
    AlreadyExists,
    FormatNewer,
    InvalidValue,
    NotFound,
    PermissionRefused,
    RepositoryExists,
    RepositoryNotEmpty,
    RepositoryNotMounted,
    StorageFailed,
    VbrError,
)
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.storage.local import LocalStorage, writing_errors
from vbrcore.storage.port import Storage

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
    check_empty(path, names)
    try:
        write_identity(LocalStorage(path), path, repository_id)
    except VbrError:
        if made:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def check_empty(where: object, names: Iterable[str]) -> None:
    """Raise `RepositoryExists` or `RepositoryNotEmpty` where what is to be a repository holds these names."""
    found = set(names)
    if IDENTITY_NAME in found:
        raise RepositoryExists(f"{where} is a repository already")
    if found - _IGNORED:
        raise RepositoryNotEmpty(f"{where} is not empty")


def write_identity(storage: Storage, where: object, repository_id: str) -> None:
    """Write the identity file, durable, or leave none behind. `where`: what people call the place."""
    identity = Identity(_FORMAT, _IDENTITY_VERSION, repository_id)
    try:
        appender = storage.create(IDENTITY_NAME)
    except AlreadyExists as error:
        raise RepositoryExists(f"{where} became a repository just now") from error
    try:
        try:
            appender.write(0, [msgspec.json.format(msgspec.json.encode(identity)) + b"\n"])
            appender.sync()
        finally:
            appender.close()
        storage.sync_directory("")
    except BaseException:
        with contextlib.suppress(VbrError):
            storage.remove(IDENTITY_NAME)
        raise


def identity_of(storage: Storage, where: object) -> Identity:
    """Return a repository's identity. Raises `RepositoryNotMounted` when place or file is missing or unreadable."""
    try:
        data = storage.read(IDENTITY_NAME, 0, _MAX_IDENTITY_BYTES)
        identity = msgspec.json.decode(data, type=Identity)
    except NotFound as error:
        raise RepositoryNotMounted(f"{where} has no {IDENTITY_NAME}") from error
    except UNDECODABLE as error:
        raise RepositoryNotMounted(f"{where}/{IDENTITY_NAME} is damaged: {error}") from error
    except (PermissionRefused, StorageFailed) as error:
        raise RepositoryNotMounted(f"{where}/{IDENTITY_NAME} cannot be read: {error}") from error
    if identity.format != _FORMAT:
        raise RepositoryNotMounted(f"{where}/{IDENTITY_NAME} is of something else: {identity.format[:40]!r}")
    if identity.version > _IDENTITY_VERSION:
        raise FormatNewer(f"{where} was made by a later version")
    return identity


def read_identity(path: Path) -> Identity:
    """Return the identity of a directory of this machine, as `identity_of`."""
    return identity_of(LocalStorage(path), path)


def check_identity(storage: Storage, where: object, repository_id: str) -> None:
    """Raise `RepositoryNotMounted` unless this is that repository; never makes anything."""
    found = identity_of(storage, where).repository_id
    if found != repository_id:
        raise RepositoryNotMounted(f"{where} holds repository {found}, not {repository_id}")


def open_repository(path: Path, repository_id: str) -> LocalStorage:
    """Return the storage at the root of a repository of this machine. Raises `RepositoryNotMounted`."""
    storage = LocalStorage(path)
    check_identity(storage, path, repository_id)
    return storage


def space_of(storage: Storage, reserve_bytes: int | None = None) -> Space:
    """Return size, free bytes and reserve of what a storage lies on; `reserve_bytes` None: `reserve_of`."""
    size_bytes = storage.capacity_bytes()
    if reserve_bytes is None:
        reserve_bytes = reserve_of(size_bytes)
    return Space(size_bytes, storage.free_bytes(), reserve_bytes)


def reserve_of(size_bytes: int) -> int:
    """Return what a file system keeps free by default: 10 %, at least 5 GiB, but never more than 20 %."""
    return min(max(size_bytes // 10, 5 * GIB), size_bytes // 5)
