"""Bytes of the format: round trips, a golden slot and list, and what hostile files are answered with."""

import hashlib
import struct

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbrcore.backupfile.codec import CODEC_NONE, CODEC_ZSTD, checksum, compress, decompress, digest
from vbrcore.backupfile.contents import Contents, Damage, KeySlot, TablePart, decode_contents, encode_contents, is_gone
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.filewriter import FileWriter, new_slot
from vbrcore.backupfile.rows import Row, check_header, pack_header, pack_row, unpack_row
from vbrcore.backupfile.slots import SLOT_OFFSETS, Slot, pack_slot, unpack_slot
from vbrcore.backupfile.tables import merge, read_rows, search
from vbrcore.model.errors import DataCorrupt, FormatInvalid, FormatNewer
from vbrcore.model.point import Point, PointDisk
from vbrcore.testing.memory_storage import MemoryStorage

ROOT = digest(b"root")
POINT = Point(
    point_id="p",
    session_id="s",
    job_id="j",
    job_name="n",
    plugin="images",
    machine_id="m",
    machine="M",
    kind="full",
    created=1.5,
    sequence=1,
    disks=(PointDisk("d", "D", 1000, ROOT, "c"),),
    block_size_bytes=1 << 20,
)
CONTENTS = Contents(
    writer="w",
    run_number=9,
    revision=2,
    session_id="s",
    job_id="j",
    job_name="n",
    created=1.5,
    last_sequence=1,
    generation_files=("00" * 16,),
    points=(POINT,),
)
SLOT = Slot(7, 1, 1 << 20, b"f" * 16, b"c" * 16, b"g" * 16, 1 << 40, 1 << 20, 300, b"h" * 32, 9)


def make_file(rows: int = 0) -> tuple[MemoryStorage, FileWriter]:
    storage = MemoryStorage()
    slot = new_slot(b"f" * 16, b"c" * 16, b"g" * 16, 1 << 20, 0)
    writer = FileWriter.create(storage, "a", slot, CONTENTS, lambda: None)
    packed = []
    for number in range(rows):
        data = b"%d" % number
        row = Row(digest(data), len(data), len(data), CODEC_NONE, 0, checksum(data))
        packed.append(pack_row(row, writer.write_extent(row, data)))
    tables = (writer.write_table(sorted(packed), rows),) if rows else ()
    writer.commit(msgspec.structs.replace(CONTENTS, tables=tables))
    return storage, writer


def test_slot_stands_as_specified() -> None:
    data = pack_slot(SLOT)
    assert len(data) == 4096
    assert data[:8] == b"VBRCFILE"
    assert struct.unpack_from("<II", data, 8) == (1, 0)
    assert struct.unpack_from("<QII", data, 16) == (7, 1, 1 << 20)
    assert data[32:80] == b"f" * 16 + b"c" * 16 + b"g" * 16
    assert struct.unpack_from("<QQQ", data, 80) == (1 << 40, 1 << 20, 300)
    assert data[104:136] == b"h" * 32
    assert struct.unpack_from("<QI", data, 136) == (9, 4096)
    assert not any(data[148:4064])
    assert data[4064:] == hashlib.sha256(data[:4064]).digest()
    assert unpack_slot(data) == SLOT


def test_row_and_header_stand_as_specified() -> None:
    row = Row(b"d" * 32, 11, 22, CODEC_ZSTD, 1, 33)
    data = pack_row(row, 44)
    assert data == b"d" * 32 + struct.pack("<QIIQBBHI", 44, 11, 22, 33, 1, 1, 0, 0)
    assert unpack_row(data) == (row, 44)
    header = pack_header(row)
    assert header[:56] == b"VBRX" + struct.pack("<IQ", 11, 33) + b"d" * 32 + struct.pack("<IBBH", 22, 1, 1, 0)
    assert header[56:] == struct.pack("<Q", checksum(header[:56]))
    check_header(header, row)
    with pytest.raises(DataCorrupt):
        check_header(header, msgspec.structs.replace(row, checksum=34))


def test_contents_list_stands_as_specified() -> None:
    """A change of this text is a change of the format."""
    data = encode_contents(CONTENTS)
    text = (
        b'{"writer":"w","run_number":9,"revision":2,"session_id":"s","job_id":"j","job_name":"n","created":1.5,'
        b'"last_sequence":1,"generation_files":["00000000000000000000000000000000"],"points":[{"point_id":"p",'
        b'"session_id":"s","job_id":"j","job_name":"n","plugin":"images","machine_id":"m","machine":"M",'
        b'"kind":"full","created":1.5,"sequence":1,"disks":[{"disk_id":"d","name":"D","size_bytes":1000,'
        b'"root":"kqK3h6BtcnLfQ+r4esw7nB0xXXnVmdYcKFmDSD5DGZg=","change_id":"c","root_mac":""}],'
        b'"block_size_bytes":1048576,"configuration":"","warnings":[],"flags":0,"source_point_id":"","sealed":""}]}'
    )
    assert data == b"VBRCLIST" + struct.pack("<II", len(text), 0) + text
    assert decode_contents(data, SLOT) == (CONTENTS, b"")


def test_contents_with_everything_come_back() -> None:
    contents = msgspec.structs.replace(
        CONTENTS,
        tables=(TablePart(1 << 17, 9, b"t" * 32), TablePart(1 << 18, 3, b"u" * 32)),
        damaged=(Damage(ROOT, 1 << 17),),
        key_slots=(KeySlot("k", "argon2id", b"salt", 1, 2, 3, b"nonce", b"wrapped"),),
        machine_id="m",
        machine="M",
    )
    gone = bytes([0b0000_0010, 0b0000_1000])
    assert decode_contents(encode_contents(contents, gone), SLOT) == (contents, gone)
    assert [row for row in range(12) if is_gone(gone, row)] == [1, 11]
    with pytest.raises(FormatInvalid, match="bitmap"):
        decode_contents(encode_contents(contents, b"\0"), SLOT)


def test_later_versions_and_features_are_named() -> None:
    data = bytearray(pack_slot(SLOT))
    for place, step in ((8, 1), (12, 2)):
        changed = bytearray(data)
        changed[place] += step
        changed[4064:] = hashlib.sha256(changed[:4064]).digest()
        with pytest.raises(FormatNewer):
            unpack_slot(bytes(changed))
        storage, writer = make_file()
        storage.files["a"][: len(changed)] = changed
        with pytest.raises(FormatNewer):
            open_file(storage, "a")
        writer.close()


@pytest.mark.parametrize(
    "change",
    [
        {"contents_length": 1 << 40},
        {"contents_offset": 0},
        {"body_end": 1 << 19},
        {"body_end": (1 << 64) - 1},
        {"contents_offset": (1 << 64) - 1},
        {"block_size_bytes": 0},
    ],
)
def test_slots_with_impossible_numbers(change: dict[str, int]) -> None:
    with pytest.raises(FormatInvalid):
        unpack_slot(pack_slot(msgspec.structs.replace(SLOT, **change)))


@pytest.mark.parametrize(
    "change",
    [
        {"tables": (TablePart(0, 1, b"t" * 32),)},
        {"tables": (TablePart(1 << 17, -1, b"t" * 32),)},
        {"tables": (TablePart(1 << 17, 1 << 60, b"t" * 32),)},
        {"tables": (TablePart(1 << 17, 1, b"short"),)},
        {"tables": (TablePart((1 << 17) + 1, 1, b"t" * 32),)},
        {"damaged": (Damage(b"short", 0),)},
        {"points": (msgspec.structs.replace(POINT, block_size_bytes=1),)},
        {"points": (msgspec.structs.replace(POINT, configuration=b"x"),)},
        {"points": (msgspec.structs.replace(POINT, disks=(PointDisk("d", "D", -1, ROOT),)),)},
        {"points": (msgspec.structs.replace(POINT, disks=(PointDisk("d", "D", 1 << 63, ROOT),)),)},
        {"points": (msgspec.structs.replace(POINT, disks=(PointDisk("d", "D", 1, b"x"),)),)},
    ],
)
def test_contents_with_impossible_values(change: dict[str, object]) -> None:
    with pytest.raises(FormatInvalid):
        decode_contents(encode_contents(msgspec.structs.replace(CONTENTS, **change)), SLOT)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=600), st.booleans())
def test_no_bytes_make_a_parser_fail_otherwise(data: bytes, framed: bool) -> None:
    if framed:
        data = b"VBRCLIST" + struct.pack("<II", len(data), 0) + data
    for parse in (lambda: decode_contents(data, SLOT), lambda: unpack_slot(data.ljust(4096, b"\0"))):
        with pytest.raises((FormatInvalid, FormatNewer)):
            parse()
    with pytest.raises(DataCorrupt):
        decompress(data, 1000, CODEC_ZSTD)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_spoilt_file_is_never_read_wrongly(data: st.DataObject) -> None:
    storage, writer = make_file(20)
    writer.commit(writer.file.contents, both=True)
    writer.close()
    good = open_file(storage, "a")
    content = storage.files["a"]
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(
            st.sampled_from([*SLOT_OFFSETS]).flatmap(lambda start: st.integers(start, start + 4095))
            | st.integers(128 * 1024, len(content) - 1)
        )
        content[place] ^= data.draw(st.integers(1, 255))
    try:
        file = open_file(storage, "a")
    except FormatInvalid:
        return
    assert file.contents.points == good.contents.points
    reader = storage.open_reader("a")
    for part in file.contents.tables:
        try:
            assert len(list(read_rows(reader, part))) == 20
        except DataCorrupt:
            continue


def test_bombs_take_no_more_memory_than_the_row_says() -> None:
    bomb = compress(bytes(100 * 1024 * 1024), 1)
    with pytest.raises(DataCorrupt):
        decompress(bomb, 4096, CODEC_ZSTD)
    with pytest.raises(DataCorrupt):
        decompress(b"x", 4096, CODEC_NONE)
    with pytest.raises(FormatNewer):
        decompress(b"x", 1, 9)


def test_either_slot_suffices() -> None:
    storage, writer = make_file(3)
    writer.commit(msgspec.structs.replace(writer.file.contents, revision=3))
    writer.close()
    assert open_file(storage, "a").contents.revision == 3
    newest = SLOT_OFFSETS[open_file(storage, "a").place]
    storage.files["a"][newest + 100] ^= 1
    assert open_file(storage, "a").contents.revision == 2
    other = SLOT_OFFSETS[open_file(storage, "a").place]
    storage.files["a"][other : other + 8] = bytes(8)
    with pytest.raises(FormatInvalid):
        open_file(storage, "a")
    storage.files["a"] = bytearray(b"not a backup file at all")
    with pytest.raises(FormatInvalid):
        open_file(storage, "a")


@pytest.mark.parametrize("rows", [1, 2, 63, 64, 65, 5000])
def test_search_finds_what_is_there_and_nothing_else(rows: int) -> None:
    storage, writer = make_file(rows)
    writer.close()
    part = open_file(storage, "a").contents.tables[0]
    reader = storage.open_reader("a")
    for number in range(0, rows, max(1, rows // 100)):
        hit = search(reader, part, digest(b"%d" % number))
        assert hit is not None
        assert hit[1] == list(read_rows(reader, part))[hit[0]] if rows < 100 else hit[1][:32] == digest(b"%d" % number)
    for missing in (bytes(32), b"\xff" * 32, *(digest(b"x%d" % number) for number in range(50))):
        assert search(reader, part, missing) is None


def test_search_is_right_where_digests_are_not_spread_evenly() -> None:
    storage, writer = make_file()
    names = [b"\0" * 30 + number.to_bytes(2, "big") for number in range(1, 3000)]
    names += [b"\xff" * 30 + number.to_bytes(2, "big") for number in range(3000)]
    packed = [pack_row(Row(name, 1, 1, 0, 0, 0), 1 << 17) for name in names]
    part = writer.write_table(packed, len(packed))
    reader = storage.open_reader("a")
    assert all(search(reader, part, name) is not None for name in names[::50])
    assert search(reader, part, b"\x80" * 32) is None
    writer.close()


def test_merge_keeps_order_and_drops_doubles() -> None:
    rows = [pack_row(Row(digest(b"%d" % n), 1, 1, 0, 0, 0), 0) for n in range(10)]
    parts = [sorted(rows[:6]), sorted(rows[4:])]
    assert list(merge(parts)) == sorted(rows)
