"""Whatever a crash leaves behind, each acknowledged point restores and the next session succeeds."""

import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from vbrcore.chain.listing import read_points
from vbrcore.chain.writer import ChainWriter
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.testing.recording_storage import CrashState, Operation, RecordingStorage

SIZE = kit.size_of(600)
IMAGES = {
    "one": {0: kit.content(1), 1: kit.content(2), 599: kit.content(3)},
    "two": {0: kit.content(1), 1: kit.content(4)},
    "three": {0: kit.content(1), 1: kit.content(5), 300: kit.content(3)},
    "four": {2: kit.content(1), 1: kit.content(6)},
}


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Sequence[Operation], dict[str, str]]:
    """A history of four points over three sessions, one of which died; and point id -> image name."""
    monkeypatch.setattr(ChainWriter, "checkpoint_rows", 3)
    storage = RecordingStorage()
    names: dict[str, str] = {}

    def send(writer: ChainWriter, image: str, machine: str) -> str:
        disk = kit.send_disk(writer, IMAGES[image], SIZE)
        writer.checkpoint_if_due()
        point = kit.point_of(disk, machine=machine)
        names[point.point_id] = image
        writer.commit_point(point)
        storage.trace.append(("acknowledged", point.point_id))
        return point.point_id

    writer = kit.open_writer(storage, tmp_path / "index", "session-a")
    one = send(writer, "one", "m1")
    send(writer, "two", "m2")
    writer.seal()
    writer = kit.open_writer(storage, tmp_path / "index", "session-b")
    send(writer, "three", "m1")
    kit.send(writer, kit.content(77))
    writer.close()
    writer = kit.open_writer(storage, tmp_path / "index", "session-b")
    send(writer, "four", "m1")
    storage.trace.append(("forgetting", one))
    writer.forget([one])
    storage.trace.append(("forgotten", one))
    writer.seal()
    return storage.trace, names


def check(storage: MemoryStorage, trace: Sequence[Operation], names: dict[str, str]) -> None:
    marks = [(operation[0], operation[1]) for operation in trace]
    visible = {point.point_id for point in read_points(storage, kit.DIRECTORY)}
    for point_id, image in names.items():
        if ("forgotten", point_id) in marks:
            assert point_id not in visible
        elif ("acknowledged", point_id) in marks and ("forgetting", point_id) not in marks:
            assert point_id in visible
        if point_id in visible:
            assert kit.restore(storage, point_id) == {"d0": IMAGES[image]}


@pytest.mark.parametrize("way", ["all lost", "all kept", "random 1", "random 2"])
def test_every_prefix(way: str, trace: tuple[Sequence[Operation], dict[str, str]], tmp_path: Path) -> None:
    operations, names = trace
    choice = random.Random(way) if way.startswith("random") else None  # noqa: S311
    for length in range(len(operations) + 1):
        prefix = operations[:length]
        storage = CrashState(prefix, choice, keep=way == "all kept").storage()
        check(storage, prefix, names)
        if length % 3 == 0:
            # The index is one of a later state of this chain, or of none: both must make no difference.
            index = tmp_path / f"index-{length}"
            if length % 2:
                shutil.copytree(tmp_path / "index", index)
            writer = kit.open_writer(storage, index, "session-c")
            point = kit.send_point(writer, IMAGES["three"], SIZE, "m1")
            writer.seal()
            assert kit.restore(storage, point.point_id) == {"d0": IMAGES["three"]}
            check(storage, prefix, names)
