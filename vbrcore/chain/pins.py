"""Pins: who reads a point says so by a locked file beside the chain's files, and the point is kept meanwhile.

A pin holds the point itself. So what a reader is at stays alive also when the point was forgotten in the moment in
which it was pinned: the writer looks for pins after it has forgotten, and the reader for its point after it has pinned.
A pin that nobody holds the lock of is what a reader that died has left; the writer removes it.
"""

import contextlib
import os
from typing import Final, Self

import msgspec

from vbrcore.backupfile.contents import check_point
from vbrcore.model.errors import ChainLocked, FormatInvalid, NotFound, StorageFailed, VbrError
from vbrcore.model.foreign import UNDECODABLE
from vbrcore.model.point import Point
from vbrcore.storage.port import Lock, Storage

_START: Final = "pin-"
_ENDING: Final = ".json"
_MOST_BYTES: Final = 4 * 1024 * 1024
_TRIES: Final = 8


class Pinned(msgspec.Struct, frozen=True):
    """A point that is being read, and the generation in which it is."""

    point: Point
    generation_id: str


class Pin:
    """A pin of this process; it ends with the process at the latest."""

    def __init__(self, storage: Storage, name: str, lock: Lock) -> None:
        self._storage = storage
        self._name = name
        self._lock: Lock | None = lock

    @classmethod
    def make(cls, storage: Storage, directory: str, pinned: Pinned) -> Self:
        """Pin a point. Raises what the storage raises, e.g. `RepositoryReadOnly`."""
        data = msgspec.json.encode(pinned)
        for _ in range(_TRIES):
            name = f"{directory}/{_START}{os.urandom(8).hex()}{_ENDING}"
            file = storage.create(name)
            try:
                file.write(0, [data])
            except BaseException:
                with contextlib.suppress(VbrError):  # then the next writer removes it
                    storage.remove(name)
                raise
            finally:
                file.close()
            try:
                lock = storage.lock(name)
            except ChainLocked:  # a writer took it for a stale one, just now
                continue
            pin = cls(storage, name, lock)
            with contextlib.suppress(NotFound):
                if storage.read(name, 0, len(data)) == data:
                    return pin
            pin.release()
        raise StorageFailed(f"{directory}: no pin stays where it is put")

    def release(self) -> None:
        """Idempotent."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with contextlib.suppress(VbrError):  # then the next writer removes it
                self._storage.remove(self._name)
            lock.release()


def read_pins(storage: Storage, directory: str) -> tuple[Pinned, ...]:
    """Return what is being read now; what readers that died have left is removed. For the chain's writer.

    Raises `StorageFailed` for a pin that is held and cannot be read: what it keeps is not known.
    """
    found = []
    for name in storage.list(f"{directory}/"):
        if not _is_pin(name, directory):
            continue
        try:
            lock = storage.lock(name)
        except ChainLocked:
            with contextlib.suppress(NotFound):  # given back meanwhile
                found.append(_read(storage, name))
            continue
        with contextlib.suppress(NotFound):
            storage.remove(name)
        lock.release()
    return tuple(found)


def _is_pin(name: str, directory: str) -> bool:
    own = name.removeprefix(f"{directory}/")
    return own.startswith(_START) and own.endswith(_ENDING) and "/" not in own


def _read(storage: Storage, name: str) -> Pinned:
    try:
        pinned = msgspec.json.decode(storage.read(name, 0, _MOST_BYTES), type=Pinned)
        check_point(pinned.point)
    except (FormatInvalid, *UNDECODABLE) as error:
        raise StorageFailed(f"{name}: what this pin keeps cannot be read: {error}") from error
    return pinned
