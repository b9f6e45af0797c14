"""What may happen to the files of a chain: rot, and everything that somebody who knows the format can write."""

import contextlib
import copy
import functools
import random
import struct
from base64 import b64encode
from collections.abc import Callable

import zstandard

from tests.fuzz.chains import Chain
from tests.fuzz.draft import ROW_NUMBERS, SLOT_NUMBERS, SLOT_PLACES, Draft, NotWhole, header
from tests.fuzz.spoil import hostile_bytes, hostile_json, hostile_number
from vbrcore.backupfile.codec import checksum, digest

Files = dict[str, bytearray]
Mutation = Callable[[random.Random, Files, Chain], None]


def mutated(random: random.Random, chain: Chain) -> tuple[Files, Chain]:
    """Return the files of a chain after one to three mutations, and a model that knows what their maps may name now."""
    files = {name: bytearray(data) for name, data in chain.files.items()}
    model = chain.copy()
    for _ in range(random.randint(1, 3)):
        # A file that was spoilt before need not be one that the next mutation can take apart.
        with contextlib.suppress(NotWhole, LookupError, TypeError, ValueError, AttributeError, struct.error):
            random.choice(MUTATIONS)(random, files, model)
    return files, model


def _any_file(random: random.Random, files: Files) -> bytearray:
    return files[random.choice(sorted(files))]


# --- rot ------------------------------------------------------------------------------------------


def flips(random: random.Random, files: Files, _: Chain) -> None:
    data = _any_file(random, files)
    # Most of a file is holes: places near something else are found by the bytes that are not zero.
    for _time in range(random.randint(1, 4)):
        place = random.randrange(len(data)) if data else 0
        near = next((at for at in range(place, min(len(data), place + 8192)) if data[at]), place)
        if near < len(data):
            data[near] ^= 1 << random.randrange(8)


def cut(random: random.Random, files: Files, _: Chain) -> None:
    data = _any_file(random, files)
    del data[random.randrange(len(data) + 1) :]


def longer(random: random.Random, files: Files, _: Chain) -> None:
    data = _any_file(random, files)
    data += random.choice((bytes(5000), bytes(data[-4096:]), random.randbytes(600)))


def exchanged(random: random.Random, files: Files, _: Chain) -> None:
    """Put a range of a file, or of another one, in the place of a range."""
    source, target = _any_file(random, files), _any_file(random, files)
    unit = random.choice((512, 4096, 65536))
    here, there = (random.randrange(len(data) // unit + 1) * unit for data in (source, target))
    length = min(unit * random.randint(1, 4), len(source) - here, len(target) - there)
    if length > 0:
        old = bytes(target[there : there + length])
        target[there : there + length] = source[here : here + length]
        if random.random() < 0.5:
            source[here : here + length] = old


def zeroed(random: random.Random, files: Files, _: Chain) -> None:
    data = _any_file(random, files)
    start = random.randrange(len(data) // 4096 + 1) * 4096
    length = min(4096 * random.randint(1, 8), len(data) - start)
    data[start : start + max(0, length)] = bytes(max(0, length))


def lost(random: random.Random, files: Files, _: Chain) -> None:
    if len(files) > 1:
        del files[random.choice(sorted(files))]


def doubled(random: random.Random, files: Files, _: Chain) -> None:
    """The same file under another name, as somebody who copies files leaves it."""
    name = random.choice(sorted(files))
    files[name.replace(".vbf", f"_{random.randrange(9)}.inc.vbf")] = bytearray(files[name])


# --- slots ----------------------------------------------------------------------------------------


def slot_fields(random: random.Random, files: Files, _: Chain) -> None:
    draft = Draft(_any_file(random, files))
    places = SLOT_PLACES if random.randrange(2) else (random.choice(SLOT_PLACES),)
    name = random.choice(sorted(SLOT_NUMBERS))
    index, bits = SLOT_NUMBERS[name]
    value = hostile_number(random, draft.slot(places[0])[index], bits)
    for place in places:
        fields = draft.slot(place)
        fields[index] = value
        draft.put_slot(place, fields)


def slot_ids(random: random.Random, files: Files, _: Chain) -> None:
    """A slot with the ids of another file, or with any."""
    draft, other = Draft(_any_file(random, files)), Draft(_any_file(random, files))
    index = random.choice((6, 7, 8))
    value = random.choice((other.slot(0)[index], random.randbytes(16), bytes(16)))
    for place in SLOT_PLACES:
        fields = draft.slot(place)
        fields[index] = value
        draft.put_slot(place, fields)


def slots_of_another(random: random.Random, files: Files, _: Chain) -> None:
    source, target = Draft(_any_file(random, files)), Draft(_any_file(random, files))
    for place in SLOT_PLACES[: random.randint(1, 2)]:
        target.put_slot(place, source.slot(random.choice(SLOT_PLACES)))


# --- contents lists -------------------------------------------------------------------------------


def list_values(random: random.Random, files: Files, _: Chain) -> None:
    draft = Draft(_any_file(random, files))
    text, gone = draft.contents()
    draft.said()
    draft.put_contents(hostile_json(random, text), gone)


def list_bytes(random: random.Random, files: Files, _: Chain) -> None:
    draft = Draft(_any_file(random, files))
    text, gone = draft.contents()
    draft.put_contents(hostile_bytes(random, text), gone)


def bitmap(random: random.Random, files: Files, _: Chain) -> None:
    draft = Draft(_any_file(random, files))
    text, gone = draft.contents()
    rows = sum(len(draft.rows(part)) for part in draft.said().get("tables", []))
    changed = random.choice((random.randbytes(-(-rows // 8)), hostile_bytes(random, gone), b"\xff" * (rows // 8 + 1)))
    draft.put_contents(text, changed)


def point_of_another_file(random: random.Random, files: Files, _: Chain) -> None:
    """Points, tables, marks or keys that stand in another file, with or without the file's own."""
    draft, other = Draft(_any_file(random, files)), Draft(_any_file(random, files))
    said, foreign = draft.said(), other.said()
    field = random.choice(("points", "tables", "damaged", "key_slots", "generation_files", "generation_number"))
    if field not in foreign:
        raise NotWhole
    mine, theirs = said.get(field), copy.deepcopy(foreign[field])
    said[field] = [*mine, *theirs] if isinstance(mine, list) and random.randrange(2) else theirs
    draft.put_said(said)


def overlapping_tables(random: random.Random, files: Files, _: Chain) -> None:
    draft = Draft(_any_file(random, files))
    said = draft.said()
    if not said.get("tables"):
        raise NotWhole
    said["tables"] = said["tables"] * random.choice((2, 3, 3000))
    text, gone = draft.contents()
    draft.put_said(said)
    if random.randrange(2):
        draft.put_contents(draft.contents()[0], gone * 2)
    del text


# --- tables, extents and pages --------------------------------------------------------------------


def row_fields(random: random.Random, files: Files, _: Chain) -> None:
    """Rows with hostile numbers, with the places of others, out of order, or twice."""
    draft = Draft(_any_file(random, files))
    said = draft.said()
    number = random.randrange(max(1, len(said.get("tables", []))))
    if not said.get("tables"):
        raise NotWhole
    rows = draft.rows(said["tables"][number])
    if not rows:
        raise NotWhole
    for _time in range(random.randint(1, 3)):
        row, other = random.choice(rows), random.choice(rows)
        way = random.randrange(6)
        if way <= 1:
            index, bits = ROW_NUMBERS[random.choice(sorted(ROW_NUMBERS))]
            row[index] = hostile_number(random, row[index], bits)
        elif way == 2:
            row[1] = other[1]
        elif way == 3:
            row[0] = random.choice((other[0], bytes(32), random.randbytes(32)))
        elif way == 4:
            rows.insert(random.randrange(len(rows)), list(other))
        else:
            row[1:] = other[1:]
    if random.randrange(3):
        rows.sort(key=lambda row: bytes(row[0]))
    draft.put_rows(said, number, rows)


def foreign_rows(random: random.Random, files: Files, _: Chain) -> None:
    """A table of another file: its rows name places where this file has something else, or nothing."""
    draft, other = Draft(_any_file(random, files)), Draft(_any_file(random, files))
    said, foreign = draft.said(), other.said()
    if not said.get("tables") or not foreign.get("tables"):
        raise NotWhole
    rows = other.rows(random.choice(foreign["tables"]))
    draft.put_rows(said, random.randrange(len(said["tables"])), rows)


def extent(random: random.Random, files: Files, _: Chain) -> None:
    """Other stored bytes for a digest, with row, header and all checksums made to agree: bombs, frames of others."""
    draft = Draft(_any_file(random, files))
    said = draft.said()
    if not said.get("tables"):
        raise NotWhole
    number = random.randrange(len(said["tables"]))
    rows = draft.rows(said["tables"][number])
    if not rows:
        raise NotWhole
    row = random.choice(rows)
    stored, raw_length, codec = _stored(random, draft, row)
    row[2:5] = len(stored), raw_length, checksum(stored)
    row[6] = codec
    row[1] = draft.append(header(row) + stored)
    draft.put_rows(said, number, rows)


def _stored(random: random.Random, draft: Draft, row: list[int]) -> tuple[bytes, int, int]:
    """Return (stored bytes, raw length that the row is to have, codec)."""
    raw_length = row[3]
    old = bytes(draft.data[row[1] + 64 : row[1] + 64 + row[2]]) if row[1] < 1 << 40 else b""
    way = random.randrange(6)
    if way == 0:  # a frame that holds much more than it says
        return _frame(_zeros(8 << 20), raw_length), raw_length, 1
    if way == 1:  # one that says what it holds, which is much
        length = random.choice(_BOMBS)
        return _zeros(length), length % (1 << 32), 1
    if way == 2:  # one that does not say it
        return zstandard.ZstdCompressor(write_content_size=False).compress(bytes(raw_length % (1 << 23))), raw_length, 1
    if way == 3:  # two frames
        return (old + old, raw_length, 1)
    if way == 4:
        return hostile_bytes(random, old) or b"x", hostile_number(random, raw_length, 32), row[6]
    return bytes(min(raw_length, 1 << 20)), raw_length, 0


@functools.cache
def _zeros(length: int) -> bytes:
    """Return a frame of so many zeros: it is short."""
    return zstandard.compress(bytes(length))


# Made before memory is limited: they are what takes it.
_BOMBS = (8193, (1 << 18) + 1, 1 << 22, 1 << 26, (1 << 26) + 1)
for _length in (*_BOMBS, 8 << 20):
    _zeros(_length)


def _frame(data: bytes, said_length: int) -> bytes:
    """Return a frame whose header states another content size than it has."""
    frame = bytearray(data)
    width = 8 - 4 if frame[4] >> 6 == 2 else 8
    start = 5 + (0 if frame[4] & 0x20 else 1)
    frame[start : start + width] = (said_length % (1 << 32)).to_bytes(width, "little")
    return bytes(frame)


def forged_map(random: random.Random, files: Files, forged: Chain) -> None:
    """A page whose digest is right, made of digests that are there, as the root of a disk: a map of another shape."""
    draft = Draft(_any_file(random, files))
    said = draft.said()
    points, tables = said.get("points"), said.get("tables")
    names = sorted(forged.contents)
    if not points or not tables or not names:
        raise NotWhole
    page = bytearray(8192)
    for _ in range(random.randint(0, 3)):
        at = random.choice((0, 1, 2, 255)) * 32
        page[at : at + 32] = random.choice(names)
    content = bytes(page[: random.choice((8192, 8192, 8192, 8160, 4096))])
    name = digest(content)
    forged.contents[name] = content
    row = [name, 0, len(content), len(content), checksum(content), random.choice((1, 1, 1, 0)), 0, 0, 0]
    row[1] = draft.append(header(row) + content)
    rows = sorted([*draft.rows(tables[0]), row], key=lambda row: bytes(row[0]))
    disks = random.choice(points).get("disks") or [{}]
    disk = random.choice(disks)
    disk["root"] = b64encode(name).decode()
    if random.randrange(2):
        disk["size_bytes"] = random.choice(
            (1, 262144, 262144 * 255 + 1, 262144 * 257, 1 << 36, 1 << 50, 1 << 60, 1 << 62)
        )
    draft.put_rows(said, 0, rows)


MUTATIONS: tuple[Mutation, ...] = (
    flips,
    cut,
    longer,
    exchanged,
    zeroed,
    lost,
    doubled,
    slot_fields,
    slot_fields,
    slot_ids,
    slots_of_another,
    list_values,
    list_values,
    list_values,
    list_bytes,
    bitmap,
    point_of_another_file,
    overlapping_tables,
    row_fields,
    row_fields,
    row_fields,
    foreign_rows,
    extent,
    extent,
    forged_map,
    forged_map,
)
