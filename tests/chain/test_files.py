"""A chain's directory that changes while it is read."""

from collections.abc import Callable
from pathlib import Path

from vbrcore.chain.files import read_files
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

IMAGE = {0: kit.content(1), 1: kit.content(2)}
SIZE = kit.size_of(2)


class Changing(MemoryStorage):
    """`meanwhile` happens once: when the names were read, before any file of them is."""

    meanwhile: Callable[[], None] | None = None

    def list(self, prefix: str) -> tuple[str, ...]:
        names = super().list(prefix)
        change, self.meanwhile = self.meanwhile, None
        if change is not None:
            change()
        return names


def test_a_file_made_after_the_names_were_read_is_not_missing(tmp_path: Path) -> None:
    """A session commits a new file, and an eviction then writes an older list anew, which names it."""
    storage = Changing()
    writer = kit.open_writer(storage, tmp_path / "index")
    old = kit.send_point(writer, IMAGE, SIZE)
    kit.send_point(writer, IMAGE, SIZE, "m2")
    writer.seal()
    made = []

    def session() -> None:
        writer = kit.open_writer(storage, tmp_path / "index")
        made.append(kit.send_point(writer, IMAGE, SIZE))
        writer.forget([old.point_id])
        writer.seal()

    storage.meanwhile = session
    chain = read_files(storage, kit.DIRECTORY)
    assert chain.missing() == ()
    assert len(chain.files) == 2
    found = {point.point_id for point in chain.points()}
    assert made[0].point_id in found
    assert old.point_id not in found


def test_a_file_that_goes_after_the_names_were_read_is_passed_over(tmp_path: Path) -> None:
    storage = Changing()
    for _ in range(2):
        writer = kit.open_writer(storage, tmp_path / "index")
        point = kit.send_point(writer, IMAGE, SIZE)
        writer.seal()
    gone = read_files(storage, kit.DIRECTORY).files[0].name
    storage.meanwhile = lambda: storage.remove(gone)
    chain = read_files(storage, kit.DIRECTORY)
    assert gone not in {file.name for file in chain.files}
    assert point.point_id in {one.point_id for one in chain.points()}
    assert len(chain.missing()) == 1, "what the list names and is gone is missing"
