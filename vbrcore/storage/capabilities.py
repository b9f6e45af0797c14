"""What a storage can do beyond reading and writing, found by doing it: the class that decides how space comes back.

| class | found | gives space back by |
| --- | --- | --- |
| clone | ranges are shared without moving data, and holes give space back (XFS with reflink, Btrfs) | punch |
| punch | holes give space back (ext4, XFS without reflink, tmpfs) | punch |
| copy | neither is sure (FAT, ramfs, many shares) | unlink |

A storage that shares ranges and makes no holes is of class copy: without holes, sharing alone gives nothing back.
On Btrfs a hole gives back only what was written out by itself: `LocalStorage` sees to it that each write is.
A probe takes 2 to 3 ms on ext4 and about as long on XFS, nearly all of it the one sync.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Final, Literal

from vbrcore.model.errors import CapabilityMissing, ChainLocked, NotFound
from vbrcore.storage.port import Storage

StorageClass = Literal["clone", "punch", "copy"]
STORAGE_CLASSES: Final[tuple[StorageClass, ...]] = ("clone", "punch", "copy")  # the most able first

_LOCK_NAME: Final = ".vbrcore-probe.lock"
_FILE_NAME: Final = ".vbrcore-probe.a"
_CLONE_NAME: Final = ".vbrcore-probe.b"
# Whoever holds the lock owns all of them, so what a killed probe left is removed by the next one.
PROBE_NAMES: Final = frozenset({_LOCK_NAME, _FILE_NAME, _CLONE_NAME})
_WAIT_S = 30.0
_PAUSE_S = 0.005


def probe(storage: Storage) -> StorageClass:
    """Find a storage's class on small files of its own in the root, removed again; several may probe at once.

    Raises `RepositoryReadOnly`, `RepositoryFull`, `StorageFailed`, and `ChainLocked` when another probe hangs.
    """
    with _alone(storage):
        _remove(storage, _FILE_NAME, _CLONE_NAME)
        try:
            return _try(storage)
        finally:
            _remove(storage, _FILE_NAME, _CLONE_NAME)


@contextlib.contextmanager
def _alone(storage: Storage) -> Iterator[None]:
    """Hold the probe's lock, which goes with its file in the end."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            lock = storage.lock(_LOCK_NAME)
            break
        except ChainLocked:
            if time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE_S)
    try:
        yield
    finally:
        try:
            _remove(storage, _LOCK_NAME)
        finally:
            lock.release()


def _try(storage: Storage) -> StorageClass:
    block = storage.alignment_bytes
    content = os.urandom(2 * block)  # a file system that compresses, or finds equal blocks, must not mislead
    appender = storage.create(_FILE_NAME)
    try:
        appender.write(0, [content])
        appender.sync()
    finally:
        appender.close()
    clones = _clones(storage, content)
    if not _punches(storage, content):
        return "copy"
    if clones and storage.read(_CLONE_NAME, 0, len(content)) == content:
        return "clone"
    return "punch"


def _clones(storage: Storage, content: bytes) -> bool:
    """Share both blocks with a second file in two calls, the later one first, as extents from many places arrive."""
    block = storage.alignment_bytes
    appender = storage.create(_CLONE_NAME)
    try:
        appender.clone_range(_FILE_NAME, block, block, block)
        appender.clone_range(_FILE_NAME, 0, 0, block)
    except CapabilityMissing:
        return False
    finally:
        appender.close()
    return storage.read(_CLONE_NAME, 0, len(content)) == content


def _punches(storage: Storage, content: bytes) -> bool:
    """Make a hole of the second block: it must read as zeros, the first must not, and space must come back."""
    block = storage.alignment_bytes
    before = storage.allocated_bytes(_FILE_NAME)
    try:
        storage.punch(_FILE_NAME, block, block)
    except CapabilityMissing:
        return False
    same = storage.read(_FILE_NAME, 0, len(content)) == content[:block] + bytes(block)
    return same and storage.allocated_bytes(_FILE_NAME) < before


def _remove(storage: Storage, *names: str) -> None:
    for name in names:
        with contextlib.suppress(NotFound):
            storage.remove(name)
