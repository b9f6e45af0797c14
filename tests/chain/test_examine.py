"""Examining a chain: damage of every kind is named with all points that have it, marked, and healed by a later run."""

import hashlib
from pathlib import Path

import msgspec
import pytest

from vbrcore.backupfile.codec import checksum, compress, digest
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.rows import HEADER_BYTES, KIND_CONFIGURATION, pack_header, pack_row, unpack_row
from vbrcore.backupfile.slots import SLOT_OFFSETS
from vbrcore.backupfile.tables import read_rows
from vbrcore.chain.checkup import Checkup, look_at_maps
from vbrcore.chain.diagnosis import CONFIGURATION, Diagnosis, Finding
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import HAVE, SEND
from vbrcore.model.errors import NotFound
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

FIRST = {0: kit.content(1), 1: kit.content(2), 7: kit.content(2), 300: kit.content(3)}
SECOND = FIRST | {0: kit.content(4)}
SIZE = kit.size_of(301) - 1000
BLOCK = kit.BLOCK


class Chain:
    """Two points of one machine, in a file each."""

    def __init__(self, index: Path) -> None:
        self.storage = MemoryStorage()
        self.index = index
        self.ids = [self.backup(FIRST), self.backup(SECOND)]

    def backup(self, image: dict[int, bytes], machine: str = "m1") -> str:
        image = {number: data[: SIZE - number * BLOCK] for number, data in image.items()}
        writer = kit.open_writer(self.storage, self.index)
        point = kit.send_point(writer, image, SIZE, machine)
        writer.seal()
        return point.point_id

    def files(self) -> list[str]:
        names = [name for name in self.storage.list("job/") if name.endswith(".vbf")]
        return sorted(names, key=lambda name: not name.endswith(".full.vbf"))

    def place(self, name: bytes) -> tuple[str, int]:
        with ChainReader.open(self.storage, "job") as reader:
            location = reader.find(name)
            assert location is not None
            return reader._files[location.file].name, location.offset

    def spoil(self, name: bytes, behind: int = 70) -> str:
        file, offset = self.place(name)
        self.storage.files[file][offset + behind] ^= 0x20
        return file

    def examine(self, *, deep: bool = False, points: tuple[str, ...] = ()) -> Diagnosis:
        with ChainReader.open(self.storage, "job") as reader:
            checkup = Checkup(self.storage, reader, deep=deep, points=points)
            buffer = bytearray()
            for extent in checkup.extents():
                checkup.check(extent, buffer)
            return checkup.diagnose()

    def mark(self, diagnosis: Diagnosis) -> int:
        writer = kit.open_writer(self.storage, self.index)
        count = writer.mark_damaged(diagnosis.marks, [bad.file_id for bad in diagnosis.bad_tables])
        assert {mark.digest for mark in diagnosis.marks} <= writer.damaged
        writer.seal()
        return count

    def root(self, number: int = 0) -> bytes:
        with ChainReader.open(self.storage, "job") as reader:
            return reader.points[number].disks[0].root

    def child(self, root: bytes, number: int) -> bytes:
        with ChainReader.open(self.storage, "job") as reader:
            return reader.block(root)[number * 32 : number * 32 + 32]


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "index")


def only(diagnosis: Diagnosis) -> Finding:
    assert diagnosis.findings.finding_count == 1, diagnosis
    return diagnosis.findings.findings[0]


def named(diagnosis: Diagnosis, finding: Finding) -> list[tuple[int, list[tuple[int, int]], list[str]]]:
    points = diagnosis.findings.points
    return [(p.disk, list(p.ranges), [points[number].point_id for number in p.points]) for p in finding.places]


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_chain_has_nothing_to_be_named(chain: Chain, deep: bool) -> None:
    diagnosis = chain.examine(deep=deep)
    assert diagnosis.is_clean
    assert diagnosis == Diagnosis(diagnosis.findings)
    assert chain.examine(points=(chain.ids[1],)).is_clean
    with pytest.raises(NotFound):
        chain.examine(points=("nobody",))


def test_a_damaged_block_is_named_with_all_its_ranges_and_points(chain: Chain) -> None:
    file = chain.spoil(digest(FIRST[1]))
    diagnosis = chain.examine()
    finding = only(diagnosis)
    assert (finding.digest, finding.what, finding.file) == (digest(FIRST[1]), "block", file)
    assert named(diagnosis, finding) == [(0, [(BLOCK, BLOCK), (7 * BLOCK, BLOCK)], chain.ids)]
    assert [(one.point_id, one.disks[0].bytes) for one in diagnosis.findings.points] == [
        (point_id, 2 * BLOCK) for point_id in chain.ids
    ]
    assert [mark.digest for mark in diagnosis.marks] == [digest(FIRST[1])]


def test_the_last_block_is_as_long_as_its_disk_reaches(chain: Chain) -> None:
    chain.spoil(digest(FIRST[300][: BLOCK - 1000]))
    diagnosis = chain.examine()
    assert named(diagnosis, only(diagnosis)) == [(0, [(300 * BLOCK, BLOCK - 1000)], chain.ids)]


def test_only_one_point_has_what_only_it_reaches(chain: Chain) -> None:
    chain.spoil(digest(FIRST[0]))
    diagnosis = chain.examine()
    assert named(diagnosis, only(diagnosis)) == [(0, [(0, BLOCK)], chain.ids[:1])]
    assert chain.examine(points=(chain.ids[1],)).is_clean
    assert named(chain.examine(points=(chain.ids[0],)), only(chain.examine())) == named(diagnosis, only(diagnosis))


def test_one_point_is_checked_and_all_that_share_its_damage_are_named(chain: Chain) -> None:
    chain.spoil(digest(FIRST[1]))
    chain.spoil(digest(FIRST[0]))
    diagnosis = chain.examine(points=(chain.ids[1],))
    assert named(diagnosis, only(diagnosis)) == [(0, [(BLOCK, BLOCK), (7 * BLOCK, BLOCK)], chain.ids)]


def test_a_damaged_page_stands_for_all_below_it(chain: Chain) -> None:
    page = chain.child(chain.root(1), 1)
    chain.spoil(page)
    finding = only(chain.examine())
    assert finding.what == "page"
    assert named(chain.examine(), finding) == [(0, [(256 * BLOCK, 45 * BLOCK - 1000)], chain.ids)]
    chain.spoil(chain.root(0))
    assert {(one.what, len(one.places)) for one in chain.examine().findings.findings} == {("page", 1)}
    assert chain.examine().findings.points[0].disks[0].ranges == ((0, SIZE),)


def test_a_damaged_configuration_is_named(chain: Chain) -> None:
    chain.spoil(digest(b"<machine m1>"))
    diagnosis = chain.examine()
    assert only(diagnosis).what == "configuration"
    assert named(diagnosis, only(diagnosis)) == [(CONFIGURATION, [], chain.ids)]
    assert [point.configuration for point in diagnosis.findings.points] == [True, True]


def test_deep_finds_what_checksums_cannot(chain: Chain) -> None:
    """Another content stored under a digest, with every checksum made right."""
    name, offset = chain.place(digest(FIRST[0]))
    file = open_file(chain.storage, name)
    reader = chain.storage.open_reader(name)
    data = chain.storage.files[name]
    (part,) = file.contents.tables
    rows = list(read_rows(reader, part))
    number = next(n for n, row in enumerate(rows) if row.startswith(digest(FIRST[0])))
    row, _ = unpack_row(rows[number])
    other = next(
        stored for seed in range(1000, 9000)
        if len(stored := compress(kit.content(seed), 1)) == row.stored_length
    )  # fmt: skip
    forged = type(row)(row.digest, row.stored_length, row.raw_length, row.codec, row.kind, checksum(other))
    data[offset : offset + HEADER_BYTES + len(other)] = pack_header(forged) + other
    rows[number] = pack_row(forged, offset)
    table = b"".join(rows)
    start = part.offset + HEADER_BYTES
    data[start : start + len(table)] = table
    _name_again(chain, name, hashlib.sha256(table).digest())
    assert chain.examine().is_clean
    assert named(chain.examine(deep=True), only(chain.examine(deep=True))) == [(0, [(0, BLOCK)], chain.ids[:1])]


def _name_again(chain: Chain, name: str, sha256: bytes) -> None:
    """Write a contents list whose table has this sum."""
    file = open_file(chain.storage, name)
    (part,) = file.contents.tables
    writer = FileWriter.modify(chain.storage, file, lambda: None)
    tables = (msgspec.structs.replace(part, sha256=sha256),)
    writer.commit(msgspec.structs.replace(file.contents, tables=tables), both=True)
    writer.close()


def test_marked_damage_is_read_again_by_the_next_run_and_heals_all_points(chain: Chain) -> None:
    for name in (digest(FIRST[1]), chain.child(chain.root(1), 0), digest(b"<machine m1>")):
        chain.spoil(name)
    diagnosis = chain.examine()
    assert {finding.what for finding in diagnosis.findings.findings} == {"block", "page", "configuration"}
    assert chain.mark(diagnosis) == 3
    assert chain.mark(diagnosis) == 0, "named once"
    again = chain.examine()
    assert again.marks == ()
    assert again.findings.points == diagnosis.findings.points, "it is known, and still there"
    with ChainReader.open(chain.storage, "job") as reader:
        assert look_at_maps(reader).points == diagnosis.findings.points
    chain.backup(SECOND)
    assert chain.examine(deep=True).is_clean
    for point_id in chain.ids:
        kit.restore(chain.storage, point_id)


def test_what_the_source_no_longer_has_stays_lost(chain: Chain) -> None:
    chain.spoil(digest(FIRST[0]))
    chain.spoil(digest(FIRST[1]))
    chain.mark(chain.examine())
    chain.backup(SECOND)
    diagnosis = chain.examine()
    assert named(diagnosis, only(diagnosis)) == [(0, [(0, BLOCK)], chain.ids[:1])]
    assert only(diagnosis).file.endswith(".full.vbf")
    kit.restore(chain.storage, chain.ids[1])


def test_marking_in_one_writer_makes_it_ask_at_once(chain: Chain) -> None:
    chain.spoil(digest(FIRST[1]))
    diagnosis = chain.examine()
    writer = kit.open_writer(chain.storage, chain.index)
    assert list(writer.lookup([digest(FIRST[1]), digest(FIRST[0])], 1)) == [HAVE, HAVE]
    assert writer.mark_damaged(diagnosis.marks) == 1
    assert list(writer.lookup([digest(FIRST[1]), digest(FIRST[0])], 1)) == [SEND, HAVE]
    kit.send_point(writer, FIRST, kit.size_of(301))
    assert writer.damaged == frozenset()
    writer.seal()
    assert chain.examine().is_clean


def test_another_copy_of_what_is_damaged_is_enough(chain: Chain) -> None:
    """The writer of the copy did not know of the damage's end."""
    chain.spoil(digest(FIRST[1]))
    chain.mark(chain.examine())
    chain.backup(SECOND)
    file = chain.spoil(digest(FIRST[1]))
    diagnosis = chain.examine()
    assert [mark.digest for mark in diagnosis.marks] == [digest(FIRST[1])]
    assert only(diagnosis).file == file
    assert len(diagnosis.findings.points) == 3


def test_a_missing_file_is_named_with_what_it_took_along(chain: Chain) -> None:
    full, _ = chain.files()
    file_id = open_file(chain.storage, full).file_id.hex()
    chain.storage.remove(full)
    diagnosis = chain.examine()
    assert [(one.name, one.problem) for one in diagnosis.findings.files] == [(file_id, "missing")]
    (harmed,) = diagnosis.findings.points
    assert harmed.point_id == chain.ids[1]
    # What the second run stored itself is there: its first block.
    assert harmed.disks[0].ranges == ((BLOCK, BLOCK), (7 * BLOCK, BLOCK), (256 * BLOCK, 45 * BLOCK - 1000))
    assert harmed.configuration
    assert diagnosis.marks == ()
    chain.backup(SECOND)
    assert {point.point_id for point in chain.examine().findings.points} == set()


def test_both_slots_of_a_file_are_damaged(chain: Chain) -> None:
    name = chain.files()[1]
    for offset in SLOT_OFFSETS:
        chain.storage.files[name][offset + 20] ^= 1
    (problem,) = [one for one in chain.examine().findings.files if one.problem != "missing"]
    assert problem.name == name
    assert "slots" in problem.problem
    assert chain.examine().findings.points == ()


def test_a_damaged_table_is_named_and_what_stands_in_it_is_stored_anew(chain: Chain) -> None:
    name = chain.files()[0]
    part = open_file(chain.storage, name).contents.tables[0]
    chain.storage.files[name][part.offset + 64 + 5] ^= 1
    diagnosis = chain.examine()
    assert [bad.name for bad in diagnosis.bad_tables] == [name]
    assert {point.point_id for point in diagnosis.findings.points} == set(chain.ids)
    chain.mark(diagnosis)
    chain.backup(SECOND)
    after = chain.examine()
    assert [(point.point_id, point.disks[0].ranges) for point in after.findings.points] == [
        (chain.ids[0], ((0, SIZE),))
    ]


def test_a_file_that_is_cut_off_is_damaged_where_it_is_short(chain: Chain) -> None:
    name, offset = chain.place(digest(FIRST[300][: BLOCK - 1000]))
    data = chain.storage.files[name]
    slot_of = open_file(chain.storage, name).slot
    assert slot_of.body_end > offset
    del data[offset + 100 :]
    diagnosis = chain.examine()
    assert any(one.name == name for one in diagnosis.findings.files)
    assert {point.point_id for point in diagnosis.findings.points} == {chain.ids[1]}


def test_what_the_writer_gave_back_meanwhile_is_no_damage(chain: Chain) -> None:
    with ChainReader.open(chain.storage, "job") as reader:
        checkup = Checkup(chain.storage, reader)
        extents = list(checkup.extents())
        writer = kit.open_writer(chain.storage, chain.index)
        writer.forget([chain.ids[0]])
        writer.give_back("punch", force=True)
        writer.seal()
        buffer = bytearray()
        for extent in extents:
            checkup.check(extent, buffer)
        assert checkup._suspects, "something was given back"
        assert checkup.diagnose().is_clean


def test_a_file_that_was_renamed_meanwhile_is_read_all_the_same(chain: Chain) -> None:
    """It lost its only point, and still has what the next one needs."""
    chain.spoil(digest(FIRST[1]))
    with ChainReader.open(chain.storage, "job") as reader:
        checkup = Checkup(chain.storage, reader)
        writer = kit.open_writer(chain.storage, chain.index)
        writer.forget([chain.ids[0]])
        writer.give_back("punch", force=True)
        writer.seal()
        assert any(name.endswith(".base.vbf") for name in chain.files())
        buffer = bytearray()
        for extent in checkup.extents():
            checkup.check(extent, buffer)
        diagnosis = checkup.diagnose()
    assert named(diagnosis, only(diagnosis)) == [(0, [(BLOCK, BLOCK), (7 * BLOCK, BLOCK)], chain.ids[1:])]
    assert only(diagnosis).file.endswith(".base.vbf")


def test_nothing_but_damage_is_given_up_by_an_eviction_after_marking(chain: Chain) -> None:
    chain.spoil(digest(FIRST[1]))
    chain.mark(chain.examine())
    writer = kit.open_writer(chain.storage, chain.index)
    writer.give_back("punch", force=True)
    writer.seal()
    diagnosis = chain.examine()
    assert named(diagnosis, only(diagnosis)) == [(0, [(BLOCK, BLOCK), (7 * BLOCK, BLOCK)], chain.ids)]
    assert only(diagnosis).file, "still known where"
    chain.backup(SECOND)
    assert chain.examine(deep=True).is_clean


def test_machines_are_told_apart(chain: Chain) -> None:
    other = chain.backup({3: FIRST[1]}, "m2")
    chain.spoil(digest(FIRST[1]))
    diagnosis = chain.examine()
    assert named(diagnosis, only(diagnosis)) == [
        (0, [(BLOCK, BLOCK), (7 * BLOCK, BLOCK)], chain.ids),
        (0, [(3 * BLOCK, BLOCK)], [other]),
    ]


def test_what_no_point_needs_is_damage_too_until_it_is_named(chain: Chain) -> None:
    writer = kit.open_writer(chain.storage, chain.index)
    kit.send(writer, b"<nobody's>", KIND_CONFIGURATION)
    kit.send_point(writer, SECOND | {300: SECOND[300][: BLOCK - 1000]}, SIZE)
    writer.seal()
    chain.spoil(digest(b"<nobody's>"), behind=66)
    diagnosis = chain.examine()
    assert only(diagnosis).places == ()
    assert not diagnosis.is_clean
    chain.mark(diagnosis)
    assert chain.examine().is_clean
