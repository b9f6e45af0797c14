"""Whatever a crash leaves of eviction, fulls, compact and delete: kept points restore and the next session succeeds.

VBRCORE_CRASH_RANDOM says how many random states are looked at after each operation (short form: 2), and
VBRCORE_CRASH_FOLLOW of how many states one is gone on from (short form: 23). script/crash-states is the long run.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vbrcore.chain import eviction, transplant
from vbrcore.chain.listing import delete_chain_files, read_points
from vbrcore.chain.writer import ChainWriter
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.testing.recording_storage import Operation, RecordingStorage, crash_states

RANDOM_STATES = int(os.environ.get("VBRCORE_CRASH_RANDOM", "2"))
FOLLOWED = int(os.environ.get("VBRCORE_CRASH_FOLLOW", "23"))
SIZE = kit.size_of(600)
Image = dict[int, bytes]


class History:
    """Sessions on a storage that records them."""

    def __init__(self, storage_class: StorageClass, index: Path) -> None:
        self.storage = RecordingStorage(storage_class=storage_class)
        self.storage_class: StorageClass = storage_class
        self.index = index
        self.images: dict[str, Image] = {}
        self.image: Image = {number * 70: kit.content(number) for number in range(6)}
        self.day = 0

    def open(self, *, new_generation: bool = False) -> ChainWriter:
        return kit.open_writer(self.storage, self.index, new_generation=new_generation)

    def backup(self, writer: ChainWriter, machine: str = "m1") -> str:
        self.day += 1
        self.image = {**self.image, (self.day % 6) * 70: kit.content(100 + self.day)}
        point = kit.send_point(writer, self.image, SIZE, machine)
        self.images[point.point_id] = self.image
        self.storage.trace.append(("acknowledged", point.point_id))
        return point.point_id

    def days(self, count: int) -> list[str]:
        points = []
        for _ in range(count):
            writer = self.open()
            points.append(self.backup(writer))
            writer.seal()
        return points

    def forget(self, writer: ChainWriter, points: Sequence[str]) -> None:
        self.storage.trace += [("forgetting", point) for point in points]
        writer.forget(points)
        self.storage.trace += [("forgotten", point) for point in points]


def evicting(history: History) -> None:
    points = history.days(5)
    writer = history.open()
    history.forget(writer, points[:2])
    writer.give_back(history.storage_class, force=True)
    history.backup(writer)
    history.forget(writer, points[3:])
    writer.give_back(history.storage_class, force=True)
    writer.seal()


def evicting_any(history: History) -> None:
    points = history.days(4)
    writer = history.open()
    history.backup(writer, "m2")
    history.forget(writer, [points[3], points[1]])
    writer.give_back(history.storage_class)
    writer.seal()


def synthetic(history: History) -> None:
    points = history.days(3)
    writer = history.open()
    history.backup(writer, "m2")
    writer.synthetic_full(history.storage_class)
    history.forget(writer, points[:2])
    history.backup(writer)
    history.forget(writer, points[2:])
    writer.give_back(history.storage_class, force=True)
    writer.seal()


def active(history: History) -> None:
    points = history.days(2)
    writer = history.open(new_generation=True)
    history.backup(writer)
    history.forget(writer, points)
    writer.give_back(history.storage_class, force=True)
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
    history.storage.trace += [("forgetting", point) for point in points]
    delete_chain_files(history.storage, kit.DIRECTORY)


def check(storage: MemoryStorage, marks: set[tuple[object, object]], images: dict[str, Image]) -> None:
    visible = {point.point_id for point in read_points(storage, kit.DIRECTORY)}
    for point_id, image in images.items():
        forgetting = ("forgetting", point_id) in marks
        if ("forgotten", point_id) in marks:
            assert point_id not in visible
        elif ("acknowledged", point_id) in marks and not forgetting:
            assert point_id in visible
        # While a whole chain is being deleted, a point may be seen whose files are gone.
        if point_id in visible and ("deleting", "") not in marks:
            assert kit.restore(storage, point_id) == {"d0": image}


def go_on(storage: MemoryStorage, history: History, index: Path, marks: set[tuple[object, object]]) -> None:
    """A session, with eviction; afterwards all that is kept restores and nothing takes space that is not needed."""
    writer = kit.open_writer(storage, index)
    image = {**history.image, 7: kit.content(4711)}
    point = kit.send_point(writer, image, SIZE, "m1")
    done = writer.give_back(history.storage_class, force=True)
    assert done is not None
    if ("deleting", "") not in marks:
        assert done.warnings == []
    writer.seal()
    check(storage, marks, {**history.images, point.point_id: image})
    if history.storage_class == "copy" or ("deleting", "") in marks:
        return
    writer = kit.open_writer(storage, index)
    again = writer.give_back(history.storage_class, force=True)
    writer.seal()
    assert again is not None
    assert again.punched_bytes <= 64 * 1024  # old contents lists


@pytest.mark.parametrize("storage_class", ["clone", "punch", "copy"])
@pytest.mark.parametrize("what", [evicting, evicting_any, synthetic, active, compacting, deleting])
def test_every_prefix(
    what: Callable[[History], None],
    storage_class: StorageClass,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    monkeypatch.setattr(eviction, "MOST_POINTLESS_FILES", 1)
    monkeypatch.setattr(eviction, "LEAK_BYTES", 8192)
    monkeypatch.setattr(transplant, "STEP_ROWS", 4)
    history = History(storage_class, tmp_path / "index")
    what(history)
    trace: Sequence[Operation] = history.storage.trace
    deleting_now = {("deleting", "")} if what is deleting else set()
    states = 0
    seen: set[int] = set()
    for length, name, storage in crash_states(trace, RANDOM_STATES, storage_class=storage_class):
        states += 1
        marks = {(operation[0], operation[1]) for operation in trace[:length]} | deleting_now
        content = hash((tuple((key, bytes(data)) for key, data in storage.files.items()), len(marks)))
        if content in seen:  # nothing that was not looked at
            continue
        seen.add(content)
        try:
            check(storage, marks, history.images)
            if states % FOLLOWED == 0:
                index = tmp_path / f"index-{states}"
                if states % 2:
                    shutil.copytree(tmp_path / "index", index)
                go_on(storage, history, index, marks)
                shutil.rmtree(index)
        except BaseException as error:
            error.add_note(
                f"after {length} of {len(trace)} operations, {name}: {trace[max(0, length - 3) : length]!r:.600}"
            )
            raise
    record_property("states", states)
    print(f"{states} states, {len(seen)} different")  # noqa: T201
