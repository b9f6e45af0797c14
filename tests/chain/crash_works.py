"""What a chain's writer may be at when it dies: histories of sessions, with marks of what was acknowledged when."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from vbrcore.backupfile.encryption import ChainKey
from vbrcore.chain.listing import delete_chain_files
from vbrcore.chain.writer import ChainWriter
from vbrcore.secrets.keyslots import add_keyfile_slot
from vbrcore.secrets.secret import SecretBytes
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.testing.recording_storage import Operation, RecordingStorage

SIZE: Final = kit.size_of(600)
KEY: Final = ChainKey(bytes(range(32)))
KEY_FILES: Final = [SecretBytes(b"the key file at first" * 4), SecretBytes(b"the key file later on" * 4)]
Image = dict[int, bytes]


def content(seed: int) -> bytes:
    """A block that takes 16 KiB as it is stored, so that one that leaks is seen."""
    return random.Random(seed).randbytes(12 * 1024).ljust(kit.BLOCK, b"\0")  # noqa: S311


class History:
    """Sessions on a storage; what they do and acknowledge stands in `trace`."""

    def __init__(self, storage: MemoryStorage, index: Path) -> None:
        self.storage = storage
        self.storage_class: Final[StorageClass] = storage.storage_class
        self.index = index
        self.trace: list[Operation] = storage.trace if isinstance(storage, RecordingStorage) else []
        self.images: dict[str, Image] = {}
        self.image: Image = {number * 70: content(number) for number in range(6)}
        self.day = 0
        self.encrypted = False
        self.deletes = False

    def after_crash(self, storage: MemoryStorage, index: Path, marks: Sequence[Operation]) -> "History":
        """Go on with what a crash has left; `marks` is the trace up to it."""
        later = History(storage, index)
        later.images, later.image, later.day = dict(self.images), self.image, self.day + 1000
        later.encrypted, later.deletes = self.encrypted, self.deletes
        later.trace += [mark for mark in marks if mark[0] in MARKS]
        return later

    def open(self, session_id: str = "", *, new_generation: bool = False) -> ChainWriter:
        writer = kit.open_writer(
            self.storage, self.index, session_id, new_generation=new_generation, encrypt=self.encrypted
        )
        if self.encrypted and writer.chain.is_new:
            writer.set_key_slots((add_keyfile_slot(KEY, KEY_FILES[0], writer.chain.chain_id),))
        return writer

    def sealing(self, writer: ChainWriter) -> kit.Sealing | None:
        return kit.Sealing(KEY, writer.chain.chain_id) if self.encrypted else None

    def backup(self, writer: ChainWriter, machine: str = "m1") -> str:
        self.day += 1
        self.image = {**self.image, (self.day % 6) * 70: content(100 + self.day)}
        point = kit.send_point(writer, self.image, SIZE, machine, sealing=self.sealing(writer))
        self.images[point.point_id] = self.image
        self.trace.append(("acknowledged", point.point_id))
        return point.point_id

    def days(self, count: int) -> list[str]:
        points = []
        for _ in range(count):
            writer = self.open()
            points.append(self.backup(writer))
            writer.seal()
        return points

    def forget(self, writer: ChainWriter, points: Sequence[str]) -> None:
        self.trace += [("forgetting", point) for point in points]
        writer.forget(points)
        self.trace += [("forgotten", point) for point in points]

    def give_back(self, writer: ChainWriter) -> None:
        done = writer.give_back(self.storage_class, force=True)
        assert done is not None
        assert done.warnings == []


MARKS: Final = {"acknowledged", "forgetting", "forgotten", "deleting", "key changing", "key changed"}


def backing_up(history: History) -> None:
    """Two machines, checkpoints, a run that dies, its retry in the same session."""
    writer = history.open("session-a")
    one = history.backup(writer)
    history.backup(writer, "m2")
    writer.seal()
    writer = history.open("session-b")
    history.backup(writer)
    writer.checkpoint_rows = 3
    for seed in range(77, 84):
        kit.send(writer, kit.content(seed), sealing=history.sealing(writer))
        writer.checkpoint_if_due()
    writer.close()
    writer = history.open("session-b")
    history.backup(writer)
    history.forget(writer, [one])
    writer.seal()


def evicting(history: History) -> None:
    points = history.days(5)
    writer = history.open()
    history.forget(writer, points[:2])
    history.give_back(writer)
    history.backup(writer)
    history.forget(writer, points[3:])
    history.give_back(writer)
    writer.seal()


def evicting_any(history: History) -> None:
    points = history.days(4)
    writer = history.open()
    history.backup(writer, "m2")
    history.forget(writer, [points[3], points[1]])
    history.give_back(writer)
    writer.seal()


def synthetic(history: History) -> None:
    points = history.days(3)
    writer = history.open()
    history.backup(writer, "m2")
    writer.synthetic_full(history.storage_class)
    history.forget(writer, points[:2])
    history.backup(writer)
    history.forget(writer, points[2:])
    history.give_back(writer)
    writer.seal()


def active(history: History) -> None:
    points = history.days(2)
    writer = history.open(new_generation=True)
    history.backup(writer)
    history.forget(writer, points)
    history.give_back(writer)
    writer.seal()
    history.days(1)


def compacting(history: History) -> None:
    points = history.days(4)
    writer = history.open()
    history.forget(writer, points[:2])
    writer.compact(history.storage_class)
    writer.compact(history.storage_class, rewrite=True)
    writer.seal()


def deleting(history: History) -> None:
    points = history.days(3)
    history.deletes = True
    history.trace.append(("deleting", ""))
    history.trace += [("forgetting", point) for point in points]
    delete_chain_files(history.storage, kit.DIRECTORY)


def evicting_encrypted(history: History) -> None:
    history.encrypted = True
    points = history.days(3)
    writer = history.open()
    history.forget(writer, points[:2])
    history.give_back(writer)
    history.backup(writer)
    writer.synthetic_full(history.storage_class)
    history.forget(writer, points[2:])
    history.give_back(writer)
    writer.seal()


def changing_the_passphrase(history: History) -> None:
    """In the files of earlier runs and in the one that is being written."""
    history.encrypted = True
    points = history.days(2)
    writer = history.open()
    history.backup(writer)
    history.trace.append(("key changing", ""))
    writer.set_key_slots((add_keyfile_slot(KEY, KEY_FILES[1], writer.chain.chain_id),))
    history.trace.append(("key changed", ""))
    history.backup(writer)
    history.forget(writer, points[:1])
    history.give_back(writer)
    writer.seal()


Work = Callable[[History], None]
WORKS: Final[list[Work]] = [
    backing_up,
    evicting,
    evicting_any,
    synthetic,
    active,
    compacting,
    deleting,
    evicting_encrypted,
    changing_the_passphrase,
]
