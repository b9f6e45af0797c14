"""Targets: the parts of a file, each by itself, as bytes that are nearly right."""

import functools
import hashlib
import json
import random

import msgspec
import zstandard

from tests.fuzz.chains import KEY_FILE, chain_of
from tests.fuzz.draft import SLOT, SLOT_NUMBERS
from tests.fuzz.oracle import Wrong, typed
from tests.fuzz.spoil import hostile_bytes, hostile_json, hostile_number, hostile_value
from vbrcore.backupfile.codec import CODEC_ZSTD, compress, decompress, decompress_into, digest
from vbrcore.backupfile.contents import KeySlot, TablePart, decode_contents, encode_contents
from vbrcore.backupfile.encryption import ChainKey, ExtentOpener, ExtentSealer
from vbrcore.backupfile.file import content_of, open_file
from vbrcore.backupfile.maps import FANOUT, PAGE_BYTES, MapCursor, height, leaves
from vbrcore.backupfile.rows import ROW_BYTES, Row, check_header, pack_header, pack_row, unpack_row
from vbrcore.backupfile.sealedpoints import open_point, seal_point
from vbrcore.backupfile.slots import MAX_FILE_BYTES, unpack_slot
from vbrcore.backupfile.tables import read_rows, search
from vbrcore.model.errors import BlocksMissing
from vbrcore.model.point import Point
from vbrcore.secrets.keyslots import add_keyfile_slot, open_slots
from vbrcore.secrets.secret import SecretBytes
from vbrcore.testing.memory_storage import MemoryReader, MemoryStorage

CHAIN_ID = bytes(range(16))
KEY = ChainKey(bytes(range(32)))


@functools.cache
def _opened(shape: str) -> tuple[bytes, ...]:
    """Return the two slots and the contents list of a file of such a chain."""
    good = chain_of(shape)
    name = min(good.files)
    storage = MemoryStorage()
    storage.files[name] = bytearray(good.files[name])
    file = open_file(storage, name)
    data = good.files[name]
    listed = data[file.slot.contents_offset : file.slot.contents_offset + file.slot.contents_length]
    return data[:4096], data[65536 : 65536 + 4096], listed


def slots(random: random.Random) -> None:
    """A slot is refused, or all its numbers are such as a reader can use."""
    data = _opened("increments")[random.randrange(2)]
    if random.randrange(2):
        fields = list(SLOT.unpack_from(data))
        for _ in range(random.randint(1, 3)):
            index, bits = SLOT_NUMBERS[random.choice(sorted(SLOT_NUMBERS))]
            fields[index] = hostile_number(random, fields[index], bits)
        head = SLOT.pack(*fields).ljust(4064, b"\0")
    else:
        head = hostile_bytes(random, data[:4064])
    slot = typed(lambda: unpack_slot(head + hashlib.sha256(head).digest()))
    if slot is not None and not slot.contents_offset + slot.contents_length <= slot.body_end <= MAX_FILE_BYTES:
        raise Wrong(f"a slot that cannot be: {slot}")


def contents(random: random.Random) -> None:
    """A contents list is refused, or can be written again and means the same."""
    first, _, data = _opened(random.choice(("increments", "fulls", "encrypted")))
    slot = unpack_slot(first)
    text_length = int.from_bytes(data[8:12], "little")
    text, gone = data[16 : 16 + text_length], data[16 + text_length :]
    if random.randrange(4):
        text = hostile_json(random, text)
        data = data[:8] + len(text).to_bytes(4, "little") + len(gone).to_bytes(4, "little") + text + gone
    else:
        data = hostile_bytes(random, data)
    read = typed(lambda: decode_contents(data, slot))
    if read is not None and decode_contents(encode_contents(*read), slot) != read:
        raise Wrong("a contents list that says something else when it is written again")
    if read is not None and read[0].rows > slot.body_end:
        raise Wrong("more rows than there is place for")


def rows(random: random.Random) -> None:
    """Rows and headers are refused, or come back the same; a search finds what is there, and ends."""
    packed = []
    for number in range(random.choice((0, 1, 3, 70, 300))):
        name = digest(number.to_bytes(4, "little"))
        packed.append(pack_row(Row(name, 9, 9, 0, 0, number), 4096 * number + 131072))
    packed.sort()
    data = b"".join(packed)
    if packed and random.randrange(3):
        data = hostile_bytes(random, data)
        data = data[: len(data) // ROW_BYTES * ROW_BYTES]
    part = TablePart(0, len(data) // ROW_BYTES, hashlib.sha256(data).digest())
    reader = MemoryReader(bytearray(bytes(64) + data))
    there = typed(lambda: list(read_rows(reader, part))) or []
    for row in random.sample(there, min(3, len(there))):
        found = typed(lambda row=row: search(reader, part, row[:32]))  # type: ignore[misc]
        if found is not None and found[1][:32] != row[:32]:
            raise Wrong("a search that finds another row")
        if there == packed and found is None:
            raise Wrong("a search that finds nothing in a table that is whole")
        read = typed(lambda row=row: unpack_row(row))  # type: ignore[misc]
        if read is not None:
            if pack_row(*read)[:60] != row[:60]:
                raise Wrong("a row that is another when it is written again")
            header = hostile_bytes(random, pack_header(read[0]))
            typed(lambda header=header, read=read: check_header(header, read[0]))  # type: ignore[misc]
    longer = TablePart(part.offset, hostile_number(random, part.rows, 20), part.sha256)
    typed(lambda: list(read_rows(reader, longer)))
    typed(lambda: search(reader, longer, random.randbytes(32)))


def maps(random: random.Random) -> None:
    """A map gives each block once, in order, inside of the disk, or is refused."""
    pages: dict[bytes, bytes] = {}
    names = [bytes(32), digest(b"a block")]
    for _ in range(random.randint(1, 6)):
        page = bytearray(PAGE_BYTES)
        for _ in range(random.randint(0, 3)):
            place = random.choice((0, 1, 2, 254, 255)) * 32
            page[place : place + 32] = random.choice(names)
        content = bytes(page) if random.randrange(8) else hostile_bytes(random, bytes(page))
        names.append(digest(content))
        pages[names[-1]] = content

    def fetch(name: bytes) -> bytes:
        if name not in pages:
            raise BlocksMissing(f"there is no {name.hex()}")
        return pages[name]

    size = hostile_number(random, 1 << 30, 63)
    block_size = random.choice((1 << 18, 1 << 20, 1 << 22))
    root = random.choice(names)
    found = typed(lambda: list(leaves(root, size, block_size, fetch))) or []
    indices = [index for index, _ in found]
    if indices != sorted(set(indices)) or (indices and indices[-1] * block_size >= size):
        raise Wrong("blocks twice, out of order or beyond the disk")
    if found:
        cursor = MapCursor(root, size, block_size, fetch)
        for index, name in random.sample(found, min(4, len(found))):
            if cursor.node(0, index) != name:
                raise Wrong("a cursor that finds another block than the walk")
        cursor.node(height(size, block_size) + 1, FANOUT)


def codec(random: random.Random) -> None:
    """A frame gives exactly as many bytes as its row says, or is refused; both ways of reading agree."""
    raw = random.choice((b"x", bytes(4096), random.randbytes(3000), bytes(1 << 20)))
    stored = compress(raw, 1) if random.randrange(8) else _without_size(raw)
    if random.randrange(4):
        stored = hostile_bytes(random, stored)
    length = random.choice((len(raw), len(raw), hostile_number(random, len(raw), 26)))
    kind = random.choice((CODEC_ZSTD, CODEC_ZSTD, 0, 2, 255))
    whole = typed(lambda: bytes(decompress(stored, length, kind)))
    buffer = bytearray(length)
    into = typed(lambda: _filled(stored, buffer, kind))
    if whole is not None and len(whole) != length:
        raise Wrong("content of another length than it was asked for")
    if whole is not None and into is not None and whole != buffer:
        raise Wrong("two ways of decompression, two contents")
    row = Row(digest(raw), len(stored), length, kind, 0, 0)
    given = typed(lambda: content_of(row, stored))
    if given is not None and given != raw:
        raise Wrong("content that has not its digest")


def _filled(stored: bytes, buffer: bytearray, kind: int) -> bool:
    decompress_into(stored, memoryview(buffer), kind)
    return True


def _without_size(raw: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_content_size=False).compress(raw)


def extents(random: random.Random) -> None:
    """An encrypted extent opens to what was sealed as just this extent, or is refused."""
    raw = random.choice((b"x", random.randbytes(1000)))
    name = KEY.digest(raw)
    stored = bytes(ExtentSealer(KEY, CHAIN_ID).seal(name, 0, raw))
    spoilt = hostile_bytes(random, stored) if random.randrange(4) else stored
    chain_id = random.choice((CHAIN_ID, bytes(16)))
    row = Row(random.choice((name, bytes(31) + b"x")), len(spoilt), len(raw), random.choice((0, 1)), 0, 0, 1)
    opener = ExtentOpener(KEY, chain_id)
    given = typed(lambda: opener.content(row, spoilt))
    buffer = memoryview(bytearray(random.choice((0, len(raw), 4096))))
    typed(lambda: opener.open_row(row, spoilt, buffer))
    if given is not None and given != raw:
        raise Wrong("content that was not sealed")
    if given is not None and (spoilt, chain_id) != (stored, CHAIN_ID):
        raise Wrong("an extent was opened that was changed")


@functools.cache
def _sealed() -> Point:
    good = chain_of("encrypted")
    return seal_point(next(iter(good.points.values())), KEY, CHAIN_ID)


def points(random: random.Random) -> None:
    """A sealed point opens as it was, or is refused; what may change (sequence, kind, flags) does not count."""
    sealed = _sealed()
    text = hostile_json(random, msgspec.json.encode(sealed))
    try:
        changed = msgspec.json.decode(text, type=Point)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    if random.randrange(2):
        changed = msgspec.structs.replace(changed, sealed=hostile_bytes(random, sealed.sealed))
    opened = typed(lambda: open_point(changed, KEY, CHAIN_ID))
    if opened is not None:
        true = open_point(sealed, KEY, CHAIN_ID)
        fields = ("point_id", "machine_id", "machine", "disks", "created", "configuration", "plugin", "warnings")
        if any(getattr(opened, name) != getattr(true, name) for name in fields):
            raise Wrong("a sealed point was changed and yet opened")


@functools.cache
def _key_slot() -> KeySlot:
    return add_keyfile_slot(KEY, SecretBytes(KEY_FILE), CHAIN_ID)


def keys(random: random.Random) -> None:
    """Key slots give the chain's key or are refused, before much is computed."""
    said = json.loads(msgspec.json.encode([_key_slot()] * random.choice((1, 2, 17))))
    for _ in range(random.randint(1, 2)):
        slot = random.choice(said)
        field = random.choice(sorted(slot))
        slot[field] = hostile_value(random, slot[field])
    try:
        found = msgspec.json.decode(json.dumps(said).encode(), type=tuple[KeySlot, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return
    key = typed(lambda: open_slots(found, CHAIN_ID, keyfile=SecretBytes(KEY_FILE)))
    if key is not None and key != KEY:
        raise Wrong("another key than the chain's")
    typed(lambda: open_slots(found, CHAIN_ID))
