"""Active fulls: a new generation refers to nothing older."""

from pathlib import Path

from vbrcore.chain.files import read_files
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import HAVE, SEND
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

IMAGE = {0: kit.content(1), 1: kit.content(2)}
SIZE = kit.size_of(2)


def names_of(storage: MemoryStorage) -> list[str]:
    return sorted(name.split(".", 1)[1] for name in storage.list("job/") if name.endswith(".vbf"))


def test_an_active_full_stands_alone(tmp_path: Path) -> None:
    storage = MemoryStorage()
    writer = kit.open_writer(storage, tmp_path / "index")
    old = kit.send_point(writer, IMAGE, SIZE)
    kit.send_point(writer, IMAGE, SIZE, "m2")
    writer.seal()
    writer = kit.open_writer(storage, tmp_path / "index", new_generation=True)
    assert list(writer.lookup([kit.row_of(IMAGE[0])[0].digest], 1)) == [SEND]
    new = kit.send_point(writer, IMAGE, SIZE)
    writer.seal()
    assert (new.kind, new.sequence) == ("full", 3)
    writer = kit.open_writer(storage, tmp_path / "index")
    assert list(writer.lookup([kit.row_of(IMAGE[0])[0].digest], 1)) == [HAVE]
    late = kit.send_point(writer, IMAGE, SIZE, "m2")
    assert late.kind == "full"
    writer.forget([old.point_id])  # the list it writes is newer than any other, and yet of the older generation
    writer.seal()
    assert names_of(storage) == ["full.vbf", "full.vbf", "inc.vbf"]
    writer = kit.open_writer(storage, tmp_path / "index")
    assert kit.send_point(writer, IMAGE, SIZE).kind == "increment"
    writer.seal()
    assert [file.contents.generation_number for file in read_files(storage, "job").files] == [0, 1, 1, 1]
    for file in read_files(storage, "job").files[:1]:
        del storage.files[file.name]
    assert kit.restore(storage, new.point_id) == {"d0": IMAGE}
    with ChainReader.open(storage, "job") as reader:
        assert reader.warnings == ()


def test_a_full_that_died_is_gone_on_with_by_its_session_and_passed_over_by_others(tmp_path: Path) -> None:
    storage = MemoryStorage()
    writer = kit.open_writer(storage, tmp_path / "index")
    kit.send_point(writer, IMAGE, SIZE)
    writer.seal()
    writer = kit.open_writer(storage, tmp_path / "index", "session-1", new_generation=True)
    kit.send(writer, IMAGE[0])
    writer.checkpoint_rows = 1
    writer.checkpoint_if_due()
    writer.close()
    names = [kit.row_of(data)[0].digest for data in IMAGE.values()]
    writer = kit.open_writer(storage, tmp_path / "index", "session-1", new_generation=True)
    assert list(writer.lookup(names, 1)) == [HAVE, SEND]
    writer.close()
    writer = kit.open_writer(storage, tmp_path / "index", "session-2")
    assert list(writer.lookup(names, 1)) == [HAVE, HAVE]
    assert kit.send_point(writer, IMAGE, SIZE).kind == "increment"
    writer.seal()
