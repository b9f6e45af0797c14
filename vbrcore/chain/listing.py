"""What points there are, said by the files, without lock or index."""

from vbrcore.chain.files import ENDING, LOCK_NAME, file_names, read_files
from vbrcore.chain.pins import read_pins
from vbrcore.model.errors import ChainLocked
from vbrcore.model.point import Point
from vbrcore.storage.port import Storage


def list_chains(storage: Storage) -> tuple[str, ...]:
    """Return the directories below the repository's root that hold backup files, sorted."""
    names = (name for name in storage.list("") if name.endswith(ENDING) and "/" in name)
    return tuple(sorted({name.rpartition("/")[0] for name in names}))


def read_points(storage: Storage, directory: str) -> tuple[Point, ...]:
    """Return the points of one chain, oldest first. Raises `FormatNewer`; unreadable files are passed over."""
    return read_files(storage, directory).points()


def settled_points(storage: Storage, directory: str) -> tuple[Point, ...]:
    """Return the points while nobody writes the chain. Raises `ChainLocked` while a writer lives, be it stopped."""
    if not file_names(storage, directory):
        return ()
    lock = storage.lock(f"{directory}/{LOCK_NAME}")
    try:
        return read_points(storage, directory)
    finally:
        lock.release()


def delete_chain_files(storage: Storage, directory: str) -> None:
    """Remove a chain: every backup file, under its lock, newest first, then the lock itself.

    Raises `ChainLocked` while it is written, or one of its points is being read.
    """
    names = file_names(storage, directory)
    if not names:
        return
    lock = storage.lock(f"{directory}/{LOCK_NAME}")
    try:
        pins = read_pins(storage, directory)
        if pins:
            raise ChainLocked(f"{directory}: a point of {pins[0].point.machine or 'this chain'} is being read")
        for name in reversed(file_names(storage, directory)):
            storage.remove(name)
        storage.sync_directory(f"{directory}/")
        storage.remove(f"{directory}/{LOCK_NAME}")
    finally:
        lock.release()
    while directory:  # and what is left empty above it
        storage.remove_directory(directory)
        directory = directory.rpartition("/")[0]
