"""What is forgotten is given back, what is kept stays, in each class of storage."""

from pathlib import Path

import pytest

from vbrcore.chain import eviction
from vbrcore.chain.files import read_files
from vbrcore.chain.listing import delete_chain_files
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import ChainLocked, DataCorrupt, NotFound
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

SIZE = kit.size_of(600)
CLASSES: list[StorageClass] = ["clone", "punch", "copy"]


def bulky(seed: int) -> bytes:
    """Does not compress, so that it takes what it is."""
    return b"".join(kit.content(seed * 1000 + part, 2048) for part in range(32))


def days(storage: MemoryStorage, index: Path, count: int) -> tuple[list[str], list[dict[int, bytes]]]:
    """A disk of eight blocks; each day two of them change."""
    image = {number: bulky(number) for number in range(8)}
    points, images = [], []
    for day in range(count):
        image = {**image, day % 8: bulky(100 + day), (day + 3) % 8: bulky(200 + day)}
        writer = kit.open_writer(storage, index)
        points.append(kit.send_point(writer, image, SIZE).point_id)
        images.append(image)
        writer.seal()
    return points, images


def taken(storage: MemoryStorage) -> int:
    return sum(storage.allocated_bytes(name) for name in storage.list("job/") if name.endswith(".vbf"))


def kinds(storage: MemoryStorage) -> list[str]:
    return sorted(name.split(".", 1)[1] for name in storage.list("job/") if name.endswith(".vbf"))


@pytest.mark.parametrize("storage_class", CLASSES)
def test_what_is_forgotten_is_given_back(storage_class: StorageClass, tmp_path: Path) -> None:
    storage = MemoryStorage(storage_class=storage_class)
    points, images = days(storage, tmp_path / "index", 12)
    before = taken(storage)
    writer = kit.open_writer(storage, tmp_path / "index")
    assert writer.forget(points[:9]) == tuple(sorted(points[:9]))
    done = writer.give_back(storage_class)
    assert done is not None
    assert done.warnings == []
    assert before - taken(storage) == pytest.approx(done.freed_bytes - done.moved_bytes, abs=100_000)
    assert (done.moved_bytes > 0) == (storage_class == "copy")
    last = kit.send_point(writer, images[0], SIZE)
    writer.seal()
    for point, image in zip(points[9:], images[9:], strict=True):
        assert kit.restore(storage, point) == {"d0": image}
    assert kit.restore(storage, last.point_id) == {"d0": images[0]}
    live = len({data for image in [*images[9:], images[0]] for data in image.values()}) * 64 * 1024
    assert taken(storage) < live * 1.3 + 400_000


def test_any_point_can_go_and_its_file_with_it(tmp_path: Path) -> None:
    storage = MemoryStorage(storage_class="punch")
    points, images = days(storage, tmp_path / "index", 4)
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget([points[1]])
    done = writer.give_back("punch", force=True)
    assert done is not None
    assert kinds(storage) == ["base.vbf", "full.vbf", "inc.vbf", "inc.vbf"]
    writer.forget([points[0], points[2]])
    assert writer.give_back("punch", force=True)
    writer.seal()
    assert kit.restore(storage, points[3]) == {"d0": images[3]}
    writer = kit.open_writer(storage, tmp_path / "other-index")
    writer.forget([points[3]])
    assert writer.give_back("punch", force=True)
    writer.seal()
    assert len(kinds(storage)) == 1  # the chain's ids stay
    assert taken(storage) < 200_000


@pytest.mark.parametrize("storage_class", CLASSES)
def test_a_synthetic_full_stands_alone_and_moves_nothing_where_it_can_clone(
    storage_class: StorageClass, tmp_path: Path
) -> None:
    storage = MemoryStorage(storage_class=storage_class)
    points, images = days(storage, tmp_path / "index", 4)
    writer = kit.open_writer(storage, tmp_path / "index")
    done = writer.synthetic_full(storage_class)
    assert (done.moved_bytes == 0) == (storage_class == "clone")
    assert [point.kind for point in writer.points] == ["full", "increment", "increment", "full"]
    image = {**images[3], 5: bulky(999)}
    after = kit.send_point(writer, image, SIZE)
    assert after.kind == "increment"
    assert writer.forget(points[:3])
    assert kinds(storage) == ["full.vbf", "full.vbf", "inc.vbf", "inc.vbf", "inc.vbf", "inc.vbf"]
    writer.forget([points[3]])
    assert writer.give_back(storage_class, force=True)
    writer.seal()
    assert kit.restore(storage, after.point_id) == {"d0": image}
    assert all(file.contents.generation_number == 1 for file in read_files(storage, "job").files)


@pytest.mark.parametrize("rewrite", [False, True])
@pytest.mark.parametrize("storage_class", CLASSES)
def test_compact(storage_class: StorageClass, rewrite: bool, tmp_path: Path) -> None:
    storage = MemoryStorage(storage_class=storage_class)
    points, images = days(storage, tmp_path / "index", 6)
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget(points[:4])
    done = writer.compact(storage_class, rewrite=rewrite)
    writer.seal()
    assert done.warnings == []
    assert len(kinds(storage)) == (1 if rewrite else 3)
    for point, image in zip(points[4:], images[4:], strict=True):
        assert kit.restore(storage, point) == {"d0": image}


@pytest.mark.parametrize("storage_class", CLASSES[:2])
def test_many_files_without_points_become_one(
    storage_class: StorageClass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "MOST_POINTLESS_FILES", 4)
    storage = MemoryStorage(storage_class=storage_class)
    points, images = days(storage, tmp_path / "index", 7)
    writer = kit.open_writer(storage, tmp_path / "index")
    image = {**images[-1], 500: bulky(4711)}
    point = kit.send_point(writer, image, SIZE)
    writer.forget(points)
    done = writer.give_back(storage_class)
    writer.seal()
    assert done is not None
    assert done.unlinked_files > 0
    assert len(kinds(storage)) <= 6
    assert kit.restore(storage, point.point_id) == {"d0": image}


def test_nothing_is_given_back_while_a_file_is_missing(tmp_path: Path) -> None:
    storage = MemoryStorage()
    points, images = days(storage, tmp_path / "index", 4)
    name = next(file.name for file in read_files(storage, "job").files if file.contents.points[0].point_id == points[1])
    lost = storage.files.pop(name)
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget([points[0]])
    done = writer.give_back("clone", force=True)
    writer.seal()
    assert done is not None
    assert "missing" in done.warnings[0]
    assert (done.freed_bytes, done.unlinked_files) == (0, 0)
    storage.files[name] = lost
    for point, image in zip(points[1:], images[1:], strict=True):
        assert kit.restore(storage, point) == {"d0": image}


def test_a_pinned_point_is_neither_forgotten_nor_given_back(tmp_path: Path) -> None:
    storage = MemoryStorage()
    points, images = days(storage, tmp_path / "index", 3)
    with ChainReader.open(storage, "job", pin=points[0]) as reader:
        writer = kit.open_writer(storage, tmp_path / "index")
        assert writer.pinned == {points[0]}
        assert writer.forget(points[:2]) == (points[1],)
        assert writer.give_back("clone", force=True)
        assert writer.compact("clone", rewrite=True).unlinked_files  # what is read moves meanwhile
        writer.seal()
        point = reader.point(points[0])
        assert {index: reader.block(name) for index, name in reader.leaves(point, point.disks[0])} == images[0]
        with pytest.raises(ChainLocked):
            delete_chain_files(storage, "job")
    writer = kit.open_writer(storage, tmp_path / "index")
    assert writer.forget(points[:1]) == (points[0],)
    writer.seal()
    with pytest.raises(NotFound):
        ChainReader.open(storage, "job", pin=points[0])
    storage.files["job/pin-of-the-dead.json"] = bytearray(b"{")
    delete_chain_files(storage, "job")
    assert not storage.files


def test_damage_stays_named_and_in_its_place(tmp_path: Path) -> None:
    storage = MemoryStorage(storage_class="copy")
    points, images = days(storage, tmp_path / "index", 6)
    with ChainReader.open(storage, "job") as reader:
        location = reader.find(kit.row_of(images[5][4])[0].digest)
        assert location is not None
        name = reader._files[location.file].name
    storage.files[name][location.offset + 1000] ^= 1
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget(points[:2])
    done = writer.compact("copy", rewrite=True)
    assert "damaged" in done.warnings[0]
    writer.seal()
    assert name in storage.files
    whole = 0
    for point, image in zip(points[2:], images[2:], strict=True):
        try:
            assert kit.restore(storage, point) == {"d0": image}
            whole += 1
        except DataCorrupt:
            pass
    assert whole == 2  # those that do not reach it


def test_it_waits_until_it_is_worth_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = MemoryStorage()
    points, _ = days(storage, tmp_path / "index", 2)
    writer = kit.open_writer(storage, tmp_path / "index")
    assert writer.give_back("clone")  # nothing is known yet
    assert writer.give_back("clone") is None
    writer.forget(points[:1])
    assert writer.give_back("clone")
    monkeypatch.setattr(ChainWriter, "file_limit_bytes", 200 * 1024)
    assert writer.compact("clone", rewrite=True).warnings == []
    writer.seal()
    assert kit.restore(storage, points[1])


@pytest.mark.parametrize("storage_class", ["clone", "punch"])
def test_few_files_without_points_stay_also_when_many_points_go_at_once(
    storage_class: StorageClass, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "MOST_POINTLESS_FILES", 3)
    monkeypatch.setattr(eviction, "_MERGED_AT_ONCE", 2)
    storage = MemoryStorage(storage_class=storage_class)
    points, images = days(storage, tmp_path / "index", 9)
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget(points[2:8])
    assert writer.give_back(storage_class, force=True)
    writer.seal()
    files = read_files(storage, "job").files
    assert sum(not file.contents.points for file in files) <= 3
    for number in (0, 1, 8):
        assert kit.restore(storage, points[number]) == {"d0": images[number]}
