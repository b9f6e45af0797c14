"""What fuzzing has found: one example each, kept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.fuzz.chains import chain_of
from tests.fuzz.draft import ROW_NUMBERS, SLOT_NUMBERS, SLOT_PLACES, Draft
from tests.fuzz.oracle import look, whole_points
from tests.fuzz.whole import storage_of
from vbrcore.backupfile.codec import digest
from vbrcore.backupfile.encryption import ChainKey
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.maps import walk
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_PAGE, Row, check_row
from vbrcore.backupfile.sealedpoints import open_point
from vbrcore.chain.pins import Pinned, read_pins
from vbrcore.chain.reader import ChainReader
from vbrcore.model.errors import DataCorrupt, FormatInvalid, ProtocolError, RepositoryNotMounted, StorageFailed
from vbrcore.model.foreign import NUMBERS_END
from vbrcore.model.point import PointDisk
from vbrcore.storage.repository import IDENTITY_NAME, read_identity
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.transport.client import TransportClient
from vbrcore.transport.messages import MoverStarted

DEEP = b"[" * 100_000


def spoilt(shape: str, change: Callable[[Draft], None], number: int = 0) -> tuple[MemoryStorage, str]:
    """Return a chain with one of its files changed, and that file's name."""
    files = {name: bytearray(data) for name, data in chain_of(shape).files.items()}
    name = sorted(files)[number]
    change(Draft(files[name]))
    return storage_of(files), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sequence", (1 << 64) - 1),
        ("run_number", (1 << 64) - 1),
        ("block_size", 1),
        ("alignment", 0),
        ("alignment", 1 << 31),
        ("alignment", 4097),
        ("body_end", 1 << 50),
    ],
)
def test_a_slot_with_an_impossible_number_is_none(field: str, value: int) -> None:
    def change(draft: Draft) -> None:
        for place in SLOT_PLACES:
            fields = draft.slot(place)
            fields[SLOT_NUMBERS[field][0]] = value
            draft.put_slot(place, fields)

    storage, name = spoilt("increments", change)
    with pytest.raises(FormatInvalid, match=name):
        open_file(storage, name)


def _point(said: dict[str, Any]) -> dict[str, Any]:
    point: dict[str, Any] = said["points"][0]
    return point


@pytest.mark.parametrize(
    "change",
    [
        lambda said: said.update(last_sequence=1 << 70),
        lambda said: said.update(revision=-1),
        lambda said: said.update(created=1e300),
        lambda said: said.update(run_number=said["run_number"] + 1),
        lambda said: said.update(generation_number=NUMBERS_END),
        lambda said: said.update(generation_files=["no id"]),
        lambda said: said.update(tables=said["tables"] * 3000),
        lambda said: said.update(points=said["points"] * 2),
        lambda said: said.update(key_slots=[_key_slot()] * 17),
        lambda said: said.update(damaged=[{"digest": "", "offset": 0}]),
        lambda said: _point(said).update(created=-1.0),
        lambda said: _point(said).update(sequence=NUMBERS_END),
        lambda said: _point(said).update(flags=1 << 40),
        lambda said: _point(said).update(block_size_bytes=1 << 20),
    ],
)
def test_a_list_with_what_cannot_be_is_damaged(change: Callable[[dict[str, Any]], None]) -> None:
    def changed(draft: Draft) -> None:
        said = draft.said()
        change(said)
        draft.put_said(said)

    storage, name = spoilt("increments", changed, 1)
    with pytest.raises(FormatInvalid, match=name):
        open_file(storage, name)


def _key_slot() -> dict[str, Any]:
    slot: dict[str, Any] = msgspec.to_builtins(chain_of("encrypted").key_slots[0])
    return slot


@pytest.mark.parametrize(("kind", "raw"), [(KIND_PAGE, 1 << 26), (KIND_BLOCK, 1 << 26)])
def test_a_row_takes_no_more_memory_than_its_kind_may(kind: int, raw: int) -> None:
    with pytest.raises(FormatInvalid):
        check_row(Row(bytes(31) + b"x", 9, raw, 1, kind, 0))
    with pytest.raises(FormatInvalid):
        check_row(Row(bytes(31) + b"x", 1 << 26, 4096, 0, kind, 0))


@pytest.mark.parametrize(("field", "value"), [("offset", 1 << 63), ("offset", 0), ("stored", 250_000)])
def test_a_row_that_leads_out_of_its_file_leads_nowhere(field: str, value: int) -> None:
    def change(draft: Draft) -> None:
        said = draft.said()
        rows = draft.rows(said["tables"][0])
        for row in rows:
            row[ROW_NUMBERS[field][0]] = value
            row[ROW_NUMBERS["raw"][0]] = kit.BLOCK
            row[ROW_NUMBERS["kind"][0]] = KIND_BLOCK
        draft.put_rows(said, 0, rows)

    storage, name = spoilt("encrypted", change)
    with ChainReader.open(storage, kit.DIRECTORY) as reader:
        root = reader.points[0].disks[0].root
        with pytest.raises(FormatInvalid, match=name):
            reader.block(root)


def test_a_dead_row_that_leads_to_a_living_extent_does_not_cost_it(tmp_path: Path) -> None:
    """A hole would be made where the row says."""
    storage = MemoryStorage(storage_class="punch")
    image = {0: kit.content(1), 1: kit.content(2)}
    writer = kit.open_writer(storage, tmp_path / "index")
    first = kit.send_point(writer, image, kit.size_of(3))
    second = kit.send_point(writer, image | {1: kit.content(3)}, kit.size_of(3))
    writer.seal()
    (name,) = [name for name in storage.list("") if name.endswith(".vbf")]
    data = bytearray(storage.files[name])
    draft = Draft(data)
    said = draft.said()
    rows = draft.rows(said["tables"][0])
    dead = next(row for row in rows if row[0] == digest(kit.content(2)))
    living = next(row for row in rows if row[0] == digest(kit.content(3)))
    dead[1] = living[1]
    draft.put_rows(said, 0, rows)
    storage.files[name] = data
    writer = kit.open_writer(storage, tmp_path / "index")
    writer.forget([first.point_id])
    writer.give_back("punch", force=False)
    writer.seal()
    assert kit.restore(storage, second.point_id)["d0"][1] == kit.content(3)


def test_a_newer_list_that_has_rotted_does_not_keep_writers_away(tmp_path: Path) -> None:
    """Its slot still has the run number that the next writer would have taken, and be told that it was replaced."""

    def change(draft: Draft) -> None:
        newest = draft.newest()
        fields = draft.slot(newest)
        fields[SLOT_NUMBERS["run_number"][0]] += 1
        fields[SLOT_NUMBERS["sequence"][0]] += 1
        fields[12] = bytes(32)
        draft.put_slot(newest, fields)

    storage, _ = spoilt("fulls", change, -1)
    writer = kit.open_writer(storage, tmp_path)
    kit.send_point(writer, {0: kit.content(1)}, kit.size_of(1))
    writer.seal()


@pytest.mark.parametrize("field", ["run_number", "sequence"])
def test_numbers_that_have_come_to_their_end_are_not_counted_on(tmp_path: Path, field: str) -> None:
    """What is written beyond the end could not be read again."""

    def change(draft: Draft) -> None:
        said = draft.said()
        if field == "run_number":
            said["run_number"] = NUMBERS_END - 1
        draft.put_said(said)
        for place in SLOT_PLACES:
            fields = draft.slot(place)
            fields[SLOT_NUMBERS[field][0]] = NUMBERS_END - 1
            draft.put_slot(place, fields)

    storage, name = spoilt("encrypted", change)
    model = chain_of("encrypted").copy()
    before = whole_points(storage, model)
    assert len(before) == 2

    def run() -> None:
        writer = kit.open_writer(storage, tmp_path, encrypt=True)
        try:
            writer.set_key_slots(model.key_slots * 2)
        finally:
            writer.close()

    with pytest.raises(FormatInvalid, match="end"):
        run()
    assert look(storage, model) == before
    assert name in storage.files


@pytest.mark.parametrize(
    "text",
    [
        b'{"generation_id":"\xff"}',
        b'{"deep":' + DEEP,
        msgspec.json.encode(Pinned(msgspec.structs.replace(kit.point_of(), block_size_bytes=0), "")),
    ],
)
def test_a_pin_that_cannot_be_read_is_a_failure_that_names_it(text: bytes) -> None:
    storage = MemoryStorage()
    storage.files["job/pin-1.json"] = bytearray(text)
    storage.lock("job/pin-1.json")
    with pytest.raises(StorageFailed, match="pin-1"):
        read_pins(storage, "job")


@pytest.mark.parametrize(
    "text",
    [
        b'{"format":"\xff","version":1,"repository_id":"r"}',
        b'{"deep":' + DEEP[:60_000],
        b'{"format":"something else","version":1,"repository_id":"r"}',
    ],
)
def test_an_identity_that_cannot_be_read_is_none(tmp_path: Path, text: bytes) -> None:
    (tmp_path / IDENTITY_NAME).write_bytes(text)
    with pytest.raises(RepositoryNotMounted, match=IDENTITY_NAME):
        read_identity(tmp_path)


def test_a_map_in_blocks_of_no_size_is_refused() -> None:
    with pytest.raises(FormatInvalid):
        list(walk(bytes(32), 1, 0, lambda _: b""))


@pytest.mark.parametrize("size_bytes", [-1, 1 << 70])
def test_a_sealed_disk_of_an_impossible_size_is_refused(size_bytes: int) -> None:
    disk = PointDisk("d0", "d0", size_bytes, bytes(32), root_mac=bytes(16))
    with pytest.raises(DataCorrupt):
        open_point(kit.point_of(disk), ChainKey(bytes(32)), bytes(16))


def test_a_transport_that_speaks_of_a_mover_that_was_never_started_is_lost() -> None:
    with pytest.raises(ProtocolError, match="mover 7"):
        TransportClient()._on_message(MoverStarted(7, 1))


@pytest.mark.parametrize("alignment", [4096 * 3, 1 << 20])
def test_a_list_of_a_file_with_a_large_alignment_can_be_read_again(tmp_path: Path, alignment: int) -> None:
    """The body then ends behind the file's end, for the last item is not padded to the alignment."""

    def change(draft: Draft) -> None:
        for place in SLOT_PLACES:
            fields = draft.slot(place)
            fields[SLOT_NUMBERS["alignment"][0]] = alignment
            draft.put_slot(place, fields)

    storage, name = spoilt("encrypted", change)
    model = chain_of("encrypted").copy()
    writer = kit.open_writer(storage, tmp_path, encrypt=True)
    writer.set_key_slots(model.key_slots * 2)
    writer.seal()
    assert len(open_file(storage, name).contents.key_slots) == 2
    assert len(whole_points(storage, model)) == 2
