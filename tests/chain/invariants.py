"""The invariants of a chain (DESIGN section 6), looked at from outside: by its files, its index and its trace."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.file import BackupFile, open_file
from vbrcore.backupfile.maps import walk
from vbrcore.backupfile.slots import BODY_OFFSET, SLOT_OFFSETS
from vbrcore.backupfile.tables import read_rows
from vbrcore.chain.files import ENDING, LOCK_NAME, ChainFiles, read_files
from vbrcore.chain.index import DedupIndex, intact_rows, mark_of, place_of_index
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.sweep import extent_bytes, offset_of
from vbrcore.model.errors import FormatInvalid
from vbrcore.model.point import Point
from vbrcore.storage.port import SLOT_BYTES
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.testing.recording_storage import Disk, Operation

Range = tuple[int, int]
NONE: Final = frozenset[str]()


def all_rows(storage: MemoryStorage, file: BackupFile, *, intact: bool = True) -> Iterator[bytes]:
    """Yield the rows of a file: those that are neither gone nor damaged, or all."""
    reader = storage.open_reader(file.name)
    first = 0
    for part in file.contents.tables:
        rows = list(read_rows(reader, part))
        yield from intact_rows(file, rows, first) if intact else rows
        first += part.rows


# --- what a trace may never show --------------------------------------------------------------------------------------


def check_order(trace: Sequence[Operation], disk: Disk) -> int:
    """No byte of a body is written twice; nothing goes that a durable list still says is there. Returns the checks."""
    begin = disk.state("all lost")
    bodies: dict[str, list[Range]] = {name: _body(begin, name) for name in begin.files}
    checks = 0
    for operation in trace:
        match operation:
            case ("create", str(name)):
                bodies[name] = []
            case ("rename", str(name), str(new_name)):
                bodies[new_name] = bodies.pop(name)
            case ("truncate", str(name), int(size_bytes)):
                bodies[name] = [(start, min(end, size_bytes)) for start, end in bodies[name] if start < size_bytes]
            case ("write" | "clone", str(name), int(offset), bytes(data), *_) if name.endswith(ENDING):
                if not (offset in SLOT_OFFSETS and len(data) == SLOT_BYTES):
                    mine = offset, offset + len(data)
                    assert not _meets(mine, bodies[name]), f"{name} is overwritten at {offset}"
                    bodies[name].append(mine)
                    checks += 1
            case ("punch", str(name), int(offset), int(length)):
                for used in _used(disk.state("all lost"), name):
                    assert not _meets((offset, offset + length), used), f"{name}: a hole at {offset} where a list looks"
                    checks += 1
            case ("remove", str(name)) if name.endswith(ENDING) and ("deleting", "") not in trace:
                _check_unlisted(disk.state("all lost"), name)
                checks += 1
        disk.feed(operation)
    return checks


def _body(storage: MemoryStorage, name: str) -> list[Range]:
    """What was committed before the trace was written once; what lies behind it is of a commit that never was."""
    try:
        return [(BODY_OFFSET, open_file(storage, name).slot.body_end)]
    except FormatInvalid:
        return []


def _meets(mine: Range, others: Iterable[Range]) -> bool:
    return any(mine[0] < end and start < mine[1] for start, end in others)


def _used(storage: MemoryStorage, name: str) -> Iterator[list[Range]]:
    """Yield the ranges that a file's list counts on, for the list of each slot."""
    content = bytes(storage.files[name])
    for other in SLOT_OFFSETS:
        alone = MemoryStorage()
        alone.files[name] = bytearray(content[:other] + bytes(SLOT_BYTES) + content[other + SLOT_BYTES :])
        file = open_file(alone, name)
        slot = file.slot
        used = [(slot.contents_offset, slot.contents_offset + slot.contents_length)]
        used += [(part.offset, part.end) for part in file.contents.tables]
        rows = list(all_rows(alone, file))
        used += [(offset_of(row), offset_of(row) + extent_bytes(row, file)) for row in rows]
        yield used


def _check_unlisted(storage: MemoryStorage, name: str) -> None:
    """A committed file goes after its generation's newest list names it no more, or as the last one of it."""
    try:
        file = open_file(storage, name)
    except FormatInvalid:  # never committed
        return
    generation = read_files(storage, kit.DIRECTORY).generation(file.slot.generation_id)
    newest = generation[-1]
    if len(generation) > 1:
        assert file.file_id.hex() not in newest.contents.generation_files, f"{name} goes while it is listed"
    assert not set(file.contents.points).difference(*(f.contents.points for f in generation if f.name != name))


# --- what a chain that was looked after is ----------------------------------------------------------------------------


def check_tidy(storage: MemoryStorage, *, slack_bytes: int, most_pointless: int, pins: frozenset[str] = NONE) -> None:
    """Nothing is there that is not needed: no file, no extent beyond what the storage's class may leave.

    `slack_bytes` per file: what may wait to be punched. `pins`: files of readers that read now.
    """
    allowed = {f"{kit.DIRECTORY}/{LOCK_NAME}", *pins}
    assert {name for name in storage.list("") if not name.endswith(ENDING)} <= allowed
    found = read_files(storage, kit.DIRECTORY)
    assert found.unreadable == ()
    assert found.missing() == ()
    live_bytes = fixed_bytes = taken_bytes = 0
    for generation_id in {file.slot.generation_id for file in found.files}:
        files = found.generation(generation_id)
        live = live_extents(storage, found, generation_id)
        live_bytes += sum(live.values())
        if storage.storage_class == "copy" and not any(file.contents.points for file in files):
            continue  # its last file goes with the next session, or stays so that the chain keeps its ids
        if storage.storage_class != "copy":
            assert sum(not file.contents.points for file in files) <= most_pointless
        for file in files:
            fixed_bytes += slack_bytes + _fixed_bytes(file)
            taken_bytes += storage.allocated_bytes(file.name)
            if len(files) > 1 and not file.contents.points:
                assert any(row[:DIGEST_BYTES] in live for row in all_rows(storage, file)), f"{file.name} is of no use"
    if storage.storage_class == "copy":
        assert taken_bytes <= 1.3 * (live_bytes + fixed_bytes)
    else:
        assert taken_bytes <= 1.05 * live_bytes + fixed_bytes


def _fixed_bytes(file: BackupFile) -> int:
    """What slots, contents list and tables of a file take."""
    block = file.slot.alignment_bytes
    lengths = [block, block, file.slot.contents_length, *(part.end - part.offset for part in file.contents.tables)]
    return sum(-(-length // block) * block for length in lengths)


def live_extents(storage: MemoryStorage, found: ChainFiles, generation_id: bytes) -> dict[bytes, int]:
    """Return what the points of a generation reach: digest to the bytes of an extent that is there (invariant 2)."""
    there = {
        row[:DIGEST_BYTES]: extent_bytes(row, file)
        for file in found.generation(generation_id)
        for row in all_rows(storage, file)
    }
    points: set[Point] = {point for file in found.generation(generation_id) for point in file.contents.points}
    with ChainReader.open(storage, kit.DIRECTORY) as reader:
        reached = {point.configuration for point in points if point.configuration}
        for point in points:
            for disk in point.disks:
                reached |= {d for *_, d in walk(disk.root, disk.size_bytes, point.block_size_bytes, reader.block)}
    return {digest: there[digest] for digest in reached}


def check_index(storage: MemoryStorage, home: Path) -> None:
    """The index that the last session left says what one says that is made anew from the files."""
    found = read_files(storage, kit.DIRECTORY)
    assert found.newest is not None
    generation_id = next(file for file in reversed(found.files) if file.contents.points).slot.generation_id
    files = found.generation(generation_id)
    kept = DedupIndex(place_of_index(home, found.newest.slot.chain_id, kit.DIRECTORY), generation_id)
    fresh = DedupIndex(home / "fresh", generation_id)
    try:
        assert {file_id: entered.mark for file_id, entered in kept.entered.items()} == {
            file.file_id: mark_of(file) for file in files
        }
        assert fresh.update(storage, files) == []
        intact = {(f.file_id, row) for f in files for row in all_rows(storage, f)}
        digests = {row[:DIGEST_BYTES] for f in found.files for row in all_rows(storage, f, intact=False)}
        for digest in digests:
            mine, other = kept.find(digest), fresh.find(digest)
            assert (mine is None) == (other is None)
            assert mine is None or mine in intact
    finally:
        kept.close()
        fresh.close()
        shutil.rmtree(home / "fresh")
