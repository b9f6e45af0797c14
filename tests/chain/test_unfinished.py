"""What a run that died before its file's first commit leaves costs the chain nothing."""

from pathlib import Path

import pytest

from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

SIZE = kit.size_of(3)
IMAGES = [{0: kit.content(1)}, {0: kit.content(2)}, {0: kit.content(3)}]
SLOT = 4096
SECOND = 64 * 1024


def backup(storage: MemoryStorage, tmp_path: Path, number: int) -> str:
    writer = kit.open_writer(storage, tmp_path, f"session-{number}")
    point_id = kit.send_point(writer, IMAGES[number], SIZE).point_id
    writer.seal()
    return point_id


def check_whole(storage: MemoryStorage, tmp_path: Path, points: dict[str, int]) -> None:
    """No writer from now on is told that anything is missing, backups succeed, and these points (id: image) restore."""
    for name in ("later", "still later"):
        writer = kit.open_writer(storage, tmp_path, name)
        assert writer.warnings == ()
        assert not writer.damaged
        kit.send_point(writer, IMAGES[2], SIZE)
        writer.seal()
    for point_id, number in points.items():
        assert kit.restore(storage, point_id) == {"d0": IMAGES[number]}


def test_lists_that_were_rewritten_before_the_first_commit_do_not_name_the_file(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first, second = backup(storage, tmp_path, 0), backup(storage, tmp_path, 1)
    writer = kit.open_writer(storage, tmp_path, "dies")
    kit.send(writer, kit.content(77))  # its file is there now, and holds no point
    writer.forget([first])
    writer.close()
    check_whole(storage, tmp_path, {second: 1})


def unfinished(tmp_path: Path) -> tuple[MemoryStorage, str, str]:
    """A chain whose newest file has just been committed for the first time; its name, and the point before it."""
    storage = MemoryStorage()
    before = backup(storage, tmp_path, 0)
    names = set(storage.list(f"{kit.DIRECTORY}/"))
    writer = kit.open_writer(storage, tmp_path, "dies")
    kit.send_point(writer, IMAGES[1], SIZE)
    writer.close()
    (name,) = set(storage.list(f"{kit.DIRECTORY}/")) - names
    return storage, name, before


@pytest.mark.parametrize(("start", "end"), [(512, SLOT), (0, SLOT - 512), (0, SLOT)])
def test_a_first_slot_that_was_torn_is_no_damage(tmp_path: Path, start: int, end: int) -> None:
    storage, name, before = unfinished(tmp_path)
    content = storage.files[name]
    content[start:end] = bytes(end - start)
    content[SECOND : SECOND + SLOT] = bytes(SLOT)
    check_whole(storage, tmp_path, {before: 0})
    assert name not in storage.files


def test_a_committed_file_has_both_slots_so_that_damage_is_never_taken_for_a_torn_one(tmp_path: Path) -> None:
    storage, name, _ = unfinished(tmp_path)
    content = storage.files[name]
    for start in (0, SECOND):
        assert content[start : start + SLOT].strip(b"\0")
    content[:SLOT] = bytes(SLOT)
    content[SECOND + 600] ^= 0xFF
    writer = kit.open_writer(storage, tmp_path, "later")
    assert len(writer.warnings) > 0
    assert name in storage.files
    writer.close()
