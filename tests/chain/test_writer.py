"""Backing up into a chain and reading it back."""

from pathlib import Path

import pytest

from vbrcore.backupfile.codec import digest
from vbrcore.backupfile.maps import PageBuilder
from vbrcore.backupfile.rows import KIND_PAGE, Row
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import HAVE, SEND, WAIT, ChainWriter
from vbrcore.model.errors import BlocksMissing, ChainLocked, FormatInvalid, StorageFailed
from vbrcore.model.point import PointDisk
from vbrcore.storage.local import LocalStorage
from vbrcore.storage.port import Storage
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "memory":
        return MemoryStorage()
    (tmp_path / "repository").mkdir()
    return LocalStorage(tmp_path / "repository")


def test_full_and_increment_restore(storage: Storage, tmp_path: Path) -> None:
    first = {0: kit.content(1), 3: kit.content(2), 700: kit.content(3)}
    second = {**first, 3: kit.content(4), 701: kit.content(5, 1000)}
    size_bytes = kit.size_of(701) + 1000
    writer = kit.open_writer(storage, tmp_path / "index")
    one = kit.send_point(writer, first, size_bytes)
    writer.seal()
    writer = kit.open_writer(storage, tmp_path / "index")
    before = writer.stored_bytes
    two = kit.send_point(writer, second, size_bytes)
    assert writer.points == (one, two)
    writer.seal()
    assert (one.kind, two.kind, one.sequence, two.sequence) == ("full", "increment", 1, 2)
    assert writer.stored_bytes - before < 200_000
    assert kit.restore(storage, one.point_id) == {"d0": first}
    assert kit.restore(storage, two.point_id) == {"d0": second}
    names = [name for name in storage.list("job/") if name.endswith(".vbf")]
    assert sorted(name.split(".", 1)[1] for name in names) == ["full.vbf", "inc.vbf"]
    assert storage.read(names[0], 0, 8) == b"VBRCFILE"


def test_unsealed_file_is_read_and_continued_in_a_second_one(storage: Storage, tmp_path: Path) -> None:
    image = {0: kit.content(1), 1: kit.content(2)}
    writer = kit.open_writer(storage, tmp_path / "index", "session-1")
    one = kit.send_point(writer, image, kit.size_of(2))
    kit.send(writer, kit.content(99))  # never committed
    writer.close()
    writer = kit.open_writer(storage, tmp_path / "index", "session-1")
    assert [point.point_id for point in writer.points] == [one.point_id]
    assert list(writer.lookup([kit.row_of(kit.content(n))[0].digest for n in (1, 2, 99)], 7)) == [HAVE, HAVE, SEND]
    two = kit.send_point(writer, {0: kit.content(3)}, kit.size_of(2))
    writer.seal()
    names = [name for name in storage.list("job/") if name.endswith(".vbf")]
    assert [name.partition("_")[2] for name in names] == ["session-.full.vbf", "session-_2.inc.vbf"]
    assert kit.restore(storage, one.point_id) == {"d0": image}
    assert kit.restore(storage, two.point_id) == {"d0": {0: kit.content(3)}}


def test_promises(storage: Storage, tmp_path: Path) -> None:
    writer = kit.open_writer(storage, tmp_path / "index")
    row, stored = kit.row_of(kit.content(1))
    assert list(writer.lookup([row.digest, row.digest], 1)) == [SEND, WAIT]
    assert list(writer.lookup([row.digest], 2)) == [WAIT]
    assert list(writer.lookup([row.digest], 1)) == [SEND]
    writer.release_owner(1)
    assert list(writer.lookup([row.digest], 2)) == [SEND]
    writer.append(row, memoryview(stored), 2)
    assert list(writer.lookup([row.digest], 1)) == [HAVE]
    before = writer.stored_bytes
    writer.append(row, memoryview(stored), 1)
    assert writer.stored_bytes == before
    assert writer.page(row.digest) == kit.content(1)
    writer.close()
    with pytest.raises(StorageFailed):
        writer.lookup([row.digest], 1)


def test_closure_check_refuses_what_never_arrived(storage: Storage, tmp_path: Path) -> None:
    writer = kit.open_writer(storage, tmp_path / "index")
    disk = kit.send_disk(writer, {0: kit.content(1)}, kit.size_of(1))
    other = PageBuilder(kit.size_of(1), kit.BLOCK)
    other.add(digest(b"never sent"))
    pages, root = other.finish()
    with pytest.raises(BlocksMissing):  # not even the page
        writer.commit_point(kit.point_of(PointDisk("d0", "d0", kit.size_of(1), root)))
    kit.send(writer, pages[0][1], KIND_PAGE)
    with pytest.raises(BlocksMissing):
        writer.commit_point(kit.point_of(PointDisk("d0", "d0", kit.size_of(1), root)))
    assert writer.commit_point(kit.point_of(disk)).sequence == 1
    writer.seal()


def test_nothing_is_left_of_a_run_without_data(storage: Storage, tmp_path: Path) -> None:
    kit.open_writer(storage, tmp_path / "index").seal()
    writer = kit.open_writer(storage, tmp_path / "index")
    kit.send(writer, kit.content(1))
    writer.close()
    kit.open_writer(storage, tmp_path / "index").seal()
    assert [name for name in storage.list("job/") if name.endswith(".vbf")] == []


def test_forget_in_own_and_older_files(storage: Storage, tmp_path: Path) -> None:
    writer = kit.open_writer(storage, tmp_path / "index")
    one = kit.send_point(writer, {0: kit.content(1)}, kit.size_of(1), "a")
    two = kit.send_point(writer, {0: kit.content(2)}, kit.size_of(1), "b")
    writer.seal()
    writer = kit.open_writer(storage, tmp_path / "index")
    three = kit.send_point(writer, {0: kit.content(1)}, kit.size_of(1), "b")
    four = kit.send_point(writer, {0: kit.content(3)}, kit.size_of(1), "b")
    writer.forget([one.point_id, three.point_id, "unknown"])
    assert [point.sequence for point in writer.points] == [2, 4]
    writer.seal()
    with ChainReader.open(storage, "job") as reader:
        assert [point.point_id for point in reader.points] == [two.point_id, four.point_id]
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget([four.point_id])
    assert kit.send_point(writer, {0: kit.content(3)}, kit.size_of(1), "b").sequence == 5
    writer.seal()


def test_size_limit_starts_another_file(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChainWriter, "file_limit_bytes", 160 * 1024)
    writer = kit.open_writer(storage, tmp_path / "index")
    image = {n: kit.content(n) for n in range(30)}
    point = kit.send_point(writer, image, kit.size_of(30))
    writer.seal()
    assert len([name for name in storage.list("job/") if name.endswith(".vbf")]) > 3
    assert kit.restore(storage, point.point_id) == {"d0": image}


def test_checkpoints_let_a_retry_find_what_was_sent(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ChainWriter, "checkpoint_bytes", 16 * 1024)
    writer = kit.open_writer(storage, tmp_path / "index")
    for n in range(6):
        kit.send(writer, kit.content(n))
        writer.checkpoint_if_due()
    writer.close()
    writer = kit.open_writer(storage, tmp_path / "other-index")
    answers = writer.lookup([kit.row_of(kit.content(n))[0].digest for n in range(6)], 1)
    assert answers.count(HAVE) >= 4
    image = {n: kit.content(n) for n in range(6)}
    point = kit.send_point(writer, image, kit.size_of(6))
    writer.seal()
    assert kit.restore(storage, point.point_id) == {"d0": image}


def test_the_lock_keeps_a_second_writer_out(storage: Storage, tmp_path: Path) -> None:
    writer = kit.open_writer(storage, tmp_path / "index")
    with pytest.raises(ChainLocked):
        kit.open_writer(storage, tmp_path / "index")
    writer.close()
    kit.open_writer(storage, tmp_path / "index").close()


def test_impossible_rows_are_refused(storage: Storage, tmp_path: Path) -> None:
    writer = kit.open_writer(storage, tmp_path / "index")
    with pytest.raises(FormatInvalid):
        writer.append(Row(bytes(32), 1, 1, 0, 0, 0), memoryview(b"x"))
    with pytest.raises(FormatInvalid):
        writer.append(Row(b"a" * 32, 1, 1 << 31, 0, 0, 0), memoryview(b"x"))
    writer.close()
