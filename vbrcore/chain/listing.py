"""What points there are, said by the files, without lock or index."""

from vbrcore.model.point import Point
from vbrcore.storage.port import Storage


def list_chains(storage: Storage) -> tuple[str, ...]:
    """Return the directories below the repository's root that hold backup files, sorted."""
    raise NotImplementedError


def read_points(storage: Storage, directory: str) -> tuple[Point, ...]:
    """Return the points of one chain, oldest first. Raises `FormatNewer`; unreadable files are passed over."""
    raise NotImplementedError


def delete_chain_files(storage: Storage, directory: str) -> None:
    """Remove every backup file of a chain, under its lock. Raises `ChainLocked`."""
    raise NotImplementedError
