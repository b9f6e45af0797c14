"""When a chain's dead are looked for."""

import time
from pathlib import Path

import pytest

from vbrcore.chain.writer import ChainWriter
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

SIZE = kit.size_of(300)
DISK = {block: kit.content(block) for block in range(100)}


@pytest.fixture
def storage() -> MemoryStorage:
    return MemoryStorage(storage_class="punch")


def session(storage: MemoryStorage, index: Path, number: int) -> ChainWriter:
    """Back up a disk of which one block differs each time; the writer is left open."""
    writer = kit.open_writer(storage, index)
    kit.send_point(writer, DISK | {0: kit.content(1000 + number)}, SIZE)
    return writer


def settled(storage: MemoryStorage, index: Path) -> None:
    writer = session(storage, index, 0)
    assert writer.give_back("punch") is not None  # nothing is known yet
    writer.seal()


def test_little_that_may_be_dead_waits(storage: MemoryStorage, tmp_path: Path) -> None:
    settled(storage, tmp_path)
    writer = session(storage, tmp_path, 1)
    assert writer.give_back("punch") is None
    assert writer.give_back("punch", force=True) is not None
    writer.seal()


def test_what_forgotten_points_leave_adds_up(storage: MemoryStorage, tmp_path: Path) -> None:
    settled(storage, tmp_path)
    waited = 0  # sessions in which little enough could be dead
    for number in range(1, 40):
        writer = session(storage, tmp_path, number)
        writer.forget([point.point_id for point in writer.points[1:-1]])  # not the full: all of it might be dead
        done = writer.give_back("punch")
        writer.seal()
        if done is not None:
            break
        waited += 1
    assert done is not None
    assert waited


def test_a_run_that_died_makes_it_time(storage: MemoryStorage, tmp_path: Path) -> None:
    settled(storage, tmp_path)
    session(storage, tmp_path, 1).close()  # not sealed
    writer = session(storage, tmp_path, 2)
    assert writer.give_back("punch") is not None
    writer.seal()
    writer = session(storage, tmp_path, 3)
    assert writer.give_back("punch") is None
    writer.seal()


def test_it_is_time_weekly(storage: MemoryStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settled(storage, tmp_path)
    now = time.time()
    for days, expected in ((6.9, False), (7.1, True)):
        monkeypatch.setattr(time, "time", lambda days=days: now + days * 86400)
        writer = session(storage, tmp_path, int(days))
        assert (writer.give_back("punch") is not None) == expected
        writer.seal()


def test_without_its_note_it_is_time(storage: MemoryStorage, tmp_path: Path) -> None:
    settled(storage, tmp_path)
    for path in tmp_path.rglob("due.json"):
        path.write_bytes(b"\x00 no note")
    writer = session(storage, tmp_path, 1)
    assert writer.give_back("punch") is not None
    writer.seal()


def test_an_older_generation_counts(storage: MemoryStorage, tmp_path: Path) -> None:
    settled(storage, tmp_path)
    writer = kit.open_writer(storage, tmp_path, new_generation=True)
    for number in (1, 2):
        kit.send_point(writer, DISK | {0: kit.content(2000 + number)}, SIZE)
    assert writer.give_back("punch") is None
    writer.forget([writer.points[0].point_id])  # all that the first generation had
    assert writer.give_back("punch") is not None
    writer.seal()
