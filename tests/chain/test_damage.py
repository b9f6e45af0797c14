"""Damaged files, damage marks, rivals, stale indexes, failing storage."""

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from vbrcore.backupfile.codec import digest
from vbrcore.backupfile.contents import Damage
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.slots import SLOT_OFFSETS, pack_slot
from vbrcore.chain.listing import delete_chain_files, list_chains, read_points
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import HAVE, SEND, ChainWriter
from vbrcore.model.errors import (
    BlocksMissing,
    ChainLocked,
    DataCorrupt,
    FormatInvalid,
    FormatNewer,
    InvalidValue,
    LeaseLost,
    NotFound,
    RepositoryFull,
    StorageFailed,
    WriterReplaced,
)
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryAppender, MemoryStorage

IMAGE = {0: kit.content(1), 1: kit.content(2), 300: kit.content(3)}
SIZE = kit.size_of(301)


def backup(storage: MemoryStorage, index: Path, image: dict[int, bytes] = IMAGE, session_id: str = "") -> str:
    writer = kit.open_writer(storage, index, session_id)
    point = kit.send_point(writer, image, SIZE)
    writer.seal()
    return point.point_id


def file_of(storage: MemoryStorage, number: int = 0) -> str:
    """The full file, then the increments; their ids, and so the order of their names, are random."""
    names = [name for name in storage.list("job/") if name.endswith(".vbf")]
    return sorted(names, key=lambda name: not name.endswith(".full.vbf"))[number]


def place_of(storage: MemoryStorage, name: bytes) -> int:
    with ChainReader.open(storage, "job") as reader:
        location = reader.find(name)
        assert location is not None
        return location.offset


def mark_damaged(storage: MemoryStorage, name: bytes) -> None:
    """As a health check does."""
    offset = place_of(storage, name)
    file = open_file(storage, file_of(storage))
    writer = FileWriter.modify(storage, file, lambda: None)
    writer.commit(msgspec.structs.replace(file.contents, damaged=(Damage(name, offset),)), both=True)
    writer.close()


@pytest.mark.parametrize("behind", [0, 30, 64, 500])
def test_a_damaged_extent_is_never_returned(tmp_path: Path, behind: int) -> None:
    storage = MemoryStorage()
    point_id = backup(storage, tmp_path)
    storage.files[file_of(storage)][place_of(storage, digest(IMAGE[1])) + behind] ^= 0x40
    with pytest.raises(DataCorrupt):
        kit.restore(storage, point_id)
    writer = kit.open_writer(storage, tmp_path)
    with pytest.raises(DataCorrupt):
        writer.page(digest(IMAGE[1]))
    writer.close()


def test_a_named_damage_is_asked_for_again_and_heals_all_points(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first, second = backup(storage, tmp_path), backup(storage, tmp_path)
    spoilt = digest(IMAGE[1])
    storage.files[file_of(storage)][place_of(storage, spoilt) + 100] ^= 1
    mark_damaged(storage, spoilt)
    with ChainReader.open(storage, "job") as reader:
        assert reader.damaged == {spoilt}
        assert reader.find(spoilt) is None
    with pytest.raises(BlocksMissing):
        kit.restore(storage, first)
    writer = kit.open_writer(storage, tmp_path)
    assert writer.damaged == {spoilt}
    point = next(point for point in writer.points if point.point_id == second)
    with pytest.raises(BlocksMissing):  # an equal map does not vouch for what is damaged
        writer.commit_point(msgspec.structs.replace(point, point_id="again"))
    assert list(writer.lookup([spoilt], 1)) == [SEND]
    third = kit.send_point(writer, IMAGE, SIZE)
    assert writer.damaged == frozenset()
    writer.seal()
    for point_id in (first, second, third.point_id):
        assert kit.restore(storage, point_id) == {"d0": IMAGE}
    with ChainReader.open(storage, "job") as reader:
        assert reader.damaged == frozenset()


def test_a_damaged_table_costs_only_sending_again(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first = backup(storage, tmp_path)
    part = open_file(storage, file_of(storage)).contents.tables[0]
    storage.files[file_of(storage)][part.offset + 64 + 5] ^= 1
    with pytest.raises(BlocksMissing, match="table part"):
        kit.restore(storage, first)
    shutil.rmtree(tmp_path)
    writer = kit.open_writer(storage, tmp_path)
    assert "table part" in writer.warnings[0]
    root = writer.points[0].disks[0].root
    assert writer.damaged == {root}, "a lost page stands for all below it"
    assert list(writer.lookup([digest(IMAGE[0])], 1)) == [SEND]
    second = kit.send_point(writer, IMAGE, SIZE)
    writer.seal()
    assert kit.restore(storage, first) == kit.restore(storage, second.point_id) == {"d0": IMAGE}


def test_a_file_with_damaged_slots_costs_only_what_is_in_it(tmp_path: Path) -> None:
    storage = MemoryStorage()
    backup(storage, tmp_path)
    other = {5: kit.content(9)}
    second = backup(storage, tmp_path, other)
    name = next(name for name in storage.list("job/") if name.endswith(".full.vbf"))
    for offset in SLOT_OFFSETS:
        storage.files[name][offset + 20] ^= 1
    assert [point.point_id for point in read_points(storage, "job")] == [second]
    with pytest.raises(BlocksMissing, match="slots"):  # its configuration stood in the lost file
        kit.restore(storage, second)
    writer = kit.open_writer(storage, tmp_path)
    assert any("slots" in warning for warning in writer.warnings)
    assert writer.damaged == frozenset()  # of disks nothing of the newest point is lost
    third = kit.send_point(writer, IMAGE, SIZE)
    writer.seal()
    assert storage.files[name], "a file that cannot be read is kept"
    assert kit.restore(storage, third.point_id) == {"d0": IMAGE}


def test_a_later_version_is_left_alone(tmp_path: Path) -> None:
    storage = MemoryStorage()
    backup(storage, tmp_path)
    slot = open_file(storage, file_of(storage)).slot
    storage.files[file_of(storage)][:4096] = pack_slot(msgspec.structs.replace(slot, features=1 << 5))
    before = {name: bytes(content) for name, content in storage.files.items()}
    for attempt in (
        lambda: kit.open_writer(storage, tmp_path),
        lambda: ChainReader.open(storage, "job"),
        lambda: read_points(storage, "job"),
    ):
        with pytest.raises(FormatNewer):
            attempt()
    assert storage.files == before
    storage.lock("job/chain.lock").release()


def test_nothing_to_read(tmp_path: Path) -> None:
    storage = MemoryStorage()
    with pytest.raises(NotFound):
        ChainReader.open(storage, "job")
    storage.files["job/x.vbf"] = bytearray(b"junk")
    with pytest.raises(FormatInvalid):
        ChainReader.open(storage, "job")
    storage.files["job/x.vbf"] = bytearray(200_000)  # made, never committed
    kit.open_writer(storage, tmp_path).seal()
    assert "job/x.vbf" not in storage.files


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_rival_stops_the_writer_before_anything_is_visible(tmp_path: Path, ahead: int) -> None:
    storage = MemoryStorage()
    backup(storage, tmp_path / "a")
    writer = kit.open_writer(storage, tmp_path / "a")
    storage._locks.clear()  # a storage whose lock was lost
    for _ in range(ahead):
        backup(storage, tmp_path / "b", {0: kit.content(50)})
    rival = backup(storage, tmp_path / "b")
    points = read_points(storage, "job")
    with pytest.raises(WriterReplaced):
        kit.send_point(writer, {0: kit.content(60)}, SIZE)
    with pytest.raises(WriterReplaced):
        writer.seal()
    writer.close()
    assert read_points(storage, "job") == points
    assert kit.restore(storage, rival) == {"d0": IMAGE}


def test_an_index_of_another_state_makes_no_difference(tmp_path: Path) -> None:
    storage = MemoryStorage()
    backup(storage, tmp_path / "now")
    shutil.copytree(tmp_path / "now", tmp_path / "stale")
    shutil.copytree(tmp_path / "now", tmp_path / "crashed")
    before = {name: bytearray(content) for name, content in storage.files.items()}
    more = {9: kit.content(9)}
    backup(storage, tmp_path / "now", more)
    for index in (tmp_path / "crashed").rglob("data.mdb"):
        index.write_bytes(b"garbage" * 5000)
    for name in ("now", "stale", "crashed", "none"):
        writer = kit.open_writer(storage, tmp_path / name)
        answers = writer.lookup([digest(IMAGE[0]), digest(more[9]), digest(b"?")], 1)
        assert list(answers) == [HAVE, HAVE, SEND]
        writer.close()
    storage.files = before  # put back from a copy: the index knows of too much
    writer = kit.open_writer(storage, tmp_path / "now")
    assert list(writer.lookup([digest(IMAGE[0]), digest(more[9])], 1)) == [HAVE, SEND]
    writer.close()


def test_an_index_that_a_crashed_machine_left_is_thrown_away(tmp_path: Path) -> None:
    storage = MemoryStorage()
    backup(storage, tmp_path)
    (environment,) = tmp_path.glob("*/*")
    (environment / "in-use").write_text("another boot")
    (environment / "data.mdb").write_bytes((environment / "data.mdb").read_bytes()[:5000])
    writer = kit.open_writer(storage, tmp_path)
    assert list(writer.lookup([digest(IMAGE[0])], 1)) == [HAVE]
    writer.close()


def test_another_block_size_starts_a_generation(tmp_path: Path) -> None:
    storage = MemoryStorage()
    first = backup(storage, tmp_path)
    writer = kit.open_writer(storage, tmp_path, block_size_bytes=1024 * 1024)
    assert list(writer.lookup([digest(IMAGE[0])], 1)) == [SEND]
    assert [point.point_id for point in writer.points] == [first]
    with pytest.raises(InvalidValue):
        kit.send_point(writer, IMAGE, SIZE)
    writer.seal()


class FailingStorage(MemoryStorage):
    """Fails the n-th sync, or all writes of extents."""

    def __init__(self, failing_sync: int = 0) -> None:
        super().__init__()
        self.syncs = 0
        self.failing_sync = failing_sync

    def create(self, name: str) -> MemoryAppender:
        super().create(name).close()
        appender = FailingAppender(self, self.file(name))
        appender.storage = self
        return appender


class FailingAppender(MemoryAppender):
    storage: FailingStorage

    def sync(self) -> None:
        self.storage.syncs += 1
        if self.storage.syncs == self.storage.failing_sync:
            raise StorageFailed("the disk said no")


@pytest.mark.parametrize("failing_sync", [1, 2, 3, 4, 5])
def test_an_error_of_sync_ends_the_run(tmp_path: Path, failing_sync: int) -> None:
    storage = FailingStorage(failing_sync)
    writer = kit.open_writer(storage, tmp_path)
    committed = []
    for number in range(max(0, (failing_sync - 2) // 2)):  # the first commit has three syncs
        committed.append(kit.send_point(writer, {0: kit.content(number)}, SIZE).point_id)  # noqa: PERF401
    with pytest.raises(StorageFailed, match="said no"):
        kit.send_point(writer, {0: kit.content(99)}, SIZE)
    for attempt in (
        lambda: writer.lookup([bytes(32)], 1),
        lambda: kit.send(writer, b"x"),
        writer.checkpoint_if_due,
        lambda: writer.forget(committed),
        writer.seal,
    ):
        with pytest.raises(StorageFailed, match="said no"):
            attempt()
    writer.close()
    writer.close()
    for point_id in committed:
        kit.restore(storage, point_id)


def test_a_full_repository_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    storage = MemoryStorage(capacity_bytes=400_000)
    first = backup(storage, tmp_path)
    writer = kit.open_writer(storage, tmp_path)
    with pytest.raises(RepositoryFull):
        kit.send_disk(writer, {number: kit.content(100 + number) for number in range(300)}, SIZE)
    writer.close()
    assert kit.restore(storage, first) == {"d0": IMAGE}


def test_a_writer_that_was_cut_off_writes_nothing(tmp_path: Path) -> None:
    storage = MemoryStorage()
    cut_off = False

    def fence() -> None:
        if cut_off:
            raise LeaseLost("cut off")

    writer = kit.open_writer(storage, tmp_path, fence=fence)
    disk = kit.send_disk(writer, IMAGE, SIZE)
    before = {name: bytes(content) for name, content in storage.files.items()}
    cut_off = True
    attempts: tuple[Callable[[], object], ...] = (
        lambda: kit.send(writer, kit.content(90)),
        lambda: writer.commit_point(kit.point_of(disk)),
        writer.seal,
    )
    for attempt in attempts:
        with pytest.raises(LeaseLost):
            attempt()
    writer.close()
    assert storage.files == before


def test_listing_and_deleting(tmp_path: Path) -> None:
    storage = MemoryStorage()
    assert list_chains(storage) == ()
    backup(storage, tmp_path)
    storage.files["vbrcore-repository.json"] = bytearray(b"{}")
    storage.files["elsewhere/readme.txt"] = bytearray(b"hello")
    assert list_chains(storage) == ("job",)
    lock = storage.lock("job/chain.lock")
    with pytest.raises(ChainLocked):
        delete_chain_files(storage, "job")
    lock.release()
    delete_chain_files(storage, "job")
    delete_chain_files(storage, "job")
    assert list_chains(storage) == ()
    assert read_points(storage, "job") == ()
    assert "elsewhere/readme.txt" in storage.files


def test_many_sources_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight sources that share half of their blocks, points committed and files rolled over meanwhile."""
    monkeypatch.setattr(ChainWriter, "checkpoint_rows", 10)
    monkeypatch.setattr(ChainWriter, "file_limit_bytes", 600 * 1024)
    storage = MemoryStorage()
    writer = kit.open_writer(storage, tmp_path)
    images = {n: {b: kit.content(b if b < 20 else 1000 * n + b) for b in range(40)} for n in range(8)}
    points: dict[int, str] = {}
    errors: list[BaseException] = []

    def source(number: int) -> None:
        try:
            disk = kit.send_disk(writer, images[number], kit.size_of(40), owner=number)
            writer.checkpoint_if_due()
            while True:
                try:
                    point = writer.commit_point(kit.point_of(disk, machine=f"m{number}"))
                except BlocksMissing:
                    continue  # another source still sends a block that was promised
                break
            points[number] = point.point_id
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=source, args=(number,)) for number in images]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    writer.seal()
    assert sorted(point.sequence for point in read_points(storage, "job")) == list(range(1, 9))
    for number, point_id in points.items():
        assert kit.restore(storage, point_id) == {"d0": images[number]}
    rows = sum(open_file(storage, name).contents.rows for name in storage.list("job/") if name.endswith(".vbf"))
    assert rows == 20 + 8 * 20 + 8 + 0, "each block and page once"


def test_large_tables_are_searched_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vbrcore.chain.reader._LOADED_ROWS", 0)
    storage = MemoryStorage()
    first = backup(storage, tmp_path)
    spoilt = digest(IMAGE[1])
    second = backup(storage, tmp_path, {0: kit.content(9)})
    assert kit.restore(storage, first) == {"d0": IMAGE}
    assert kit.restore(storage, second) == {"d0": {0: kit.content(9)}}
    mark_damaged(storage, spoilt)
    with ChainReader.open(storage, "job") as reader:
        assert reader.find(spoilt) is None
        assert reader.damaged == {spoilt}


def test_lost_blocks_of_unchanged_ranges_are_named(tmp_path: Path) -> None:
    """A source that knows what changed sends nothing else, so it must be told."""
    storage = MemoryStorage()
    backup(storage, tmp_path)
    changed = {**IMAGE, 0: kit.content(9)}
    backup(storage, tmp_path, changed)
    name = next(name for name in storage.list("job/") if name.endswith(".full.vbf"))
    del storage.files[name]
    writer = kit.open_writer(storage, tmp_path)
    assert any("missing" in warning for warning in writer.warnings)
    assert digest(IMAGE[1]) in writer.damaged
    third = kit.send_point(writer, changed, SIZE)
    writer.seal()
    assert kit.restore(storage, third.point_id) == {"d0": changed}


def test_a_file_that_storage_fails_to_read_stops_writers_but_not_restores(tmp_path: Path) -> None:
    storage = UnreadableStorage()
    backup(storage, tmp_path)
    second = backup(storage, tmp_path, {5: kit.content(9)})
    full = next(name for name in storage.list("job/") if name.endswith(".full.vbf"))
    storage.unreadable = full
    for attempt in (lambda: kit.open_writer(storage, tmp_path), lambda: read_points(storage, "job")):
        with pytest.raises(StorageFailed):
            attempt()
    with ChainReader.open(storage, "job") as reader:
        assert [point.point_id for point in reader.points] == [second]
        assert "medium" in reader.warnings[0]
    storage.unreadable = ""
    kit.open_writer(storage, tmp_path).close()


class UnreadableStorage(MemoryStorage):
    unreadable = ""

    def read(self, name: str, offset: int, length: int) -> bytes:
        if name == self.unreadable:
            raise StorageFailed(f"{name}: error of the medium")
        return super().read(name, offset, length)


def test_damage_met_while_backing_up_is_healed_and_marked(tmp_path: Path) -> None:
    """Nobody has checked the chain; the source asks for a page of the last point, and it is spoilt."""
    storage = MemoryStorage()
    first = backup(storage, tmp_path)
    root = read_points(storage, "job")[0].disks[0].root
    old = place_of(storage, root)
    storage.files[file_of(storage)][old + 70] ^= 1
    writer = kit.open_writer(storage, tmp_path)
    assert list(writer.lookup([root], 1)) == [HAVE]
    for expected in (DataCorrupt, BlocksMissing):
        with pytest.raises(expected):
            writer.page(root)
    assert writer.damaged == {root}
    second = kit.send_point(writer, IMAGE, SIZE)
    assert writer.damaged == frozenset()
    writer.seal()
    full = next(name for name in storage.list("job/") if name.endswith(".full.vbf"))
    assert open_file(storage, full).contents.damaged == (Damage(root, old),)
    for index in (tmp_path, tmp_path / "new"):
        writer = kit.open_writer(storage, index)
        assert len(writer.page(root)) == 8192
        assert writer.damaged == frozenset()
        writer.close()
    for point_id in (first, second.point_id):
        assert kit.restore(storage, point_id) == {"d0": IMAGE}
