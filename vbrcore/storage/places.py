"""The storage at a place: a directory of this machine, or a share that this process logs in to."""

from pathlib import Path

from vbrcore.model.errors import VbrError
from vbrcore.model.place import Place
from vbrcore.storage.capabilities import StorageClass, probe
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import (
    IDENTITY_NAME,
    check_empty,
    check_identity,
    create_repository,
    open_repository,
    write_identity,
)


def storage_at(place: Place) -> Storage:
    """Return what lies there, repository or not. Raises `ShareUnreachable`, `ShareRefused`."""
    if place.share is None:
        return LocalStorage(Path(place.path))
    from vbrcore.storage.smb import SmbStorage  # noqa: PLC0415 - most movers need nothing of it

    return SmbStorage(place)


def open_place(place: Place, repository_id: str) -> Storage:
    """Return the storage at a repository's root; never makes anything. Raises `RepositoryNotMounted` too."""
    if place.share is None:
        return open_repository(Path(place.path), repository_id)
    storage = storage_at(place)
    check_identity(storage, place, repository_id)
    return storage


def create_at(place: Place, repository_id: str) -> StorageClass:
    """Make an absent or empty place a repository and find its class; where that fails, it is no repository.

    Raises `RepositoryExists`, `RepositoryNotEmpty`, `InvalidValue`, `RepositoryReadOnly`, `RepositoryFull`.
    """
    storage = _create(place, repository_id)
    try:
        return probe(storage)
    except VbrError:
        storage.remove(IDENTITY_NAME)
        raise


def _create(place: Place, repository_id: str) -> Storage:
    if place.share is None:
        create_repository(Path(place.path), repository_id)
        return LocalStorage(Path(place.path))
    from vbrcore.storage.smb import SmbStorage  # noqa: PLC0415 - see above

    storage = SmbStorage(place)
    made = storage.make_root()
    try:
        check_empty(place, storage.root_names())
        write_identity(storage, place, repository_id)
    except VbrError:
        if made:
            storage.remove_root()
        raise
    return storage
