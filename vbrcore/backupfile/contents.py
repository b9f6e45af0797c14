"""Contents lists: points, table parts, gone rows and what else a file says of its chain (docs/FORMAT.md)."""

import re
import struct
from typing import Final

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.maps import MAX_DISK_BYTES
from vbrcore.backupfile.rows import HEADER_BYTES, ROW_BYTES
from vbrcore.backupfile.slots import BODY_OFFSET, Slot
from vbrcore.model.errors import FormatInvalid
from vbrcore.model.foreign import MOMENTS_END, NUMBERS_END, UNDECODABLE
from vbrcore.model.job import BLOCK_SIZES_BYTES
from vbrcore.model.point import Point
from vbrcore.storage.port import ALIGNMENT_BYTES

_HEAD: Final = struct.Struct("<8sII")
_MAGIC: Final = b"VBRCLIST"
_SHA256_BYTES = 32
_ROOT_MAC_BYTES = 16
_FILE_ID = re.compile("[0-9a-f]{32}")
MAX_KEY_SLOTS: Final = 16


class TablePart(msgspec.Struct, frozen=True):
    """`rows` rows sorted by digest, behind a 64-byte header at `offset`; `sha256` is that of the rows."""

    offset: int
    rows: int
    sha256: bytes

    @property
    def end(self) -> int:
        return self.offset + HEADER_BYTES + self.rows * ROW_BYTES


class Damage(msgspec.Struct, frozen=True):
    """An extent of this file that is known to be damaged."""

    digest: bytes
    offset: int


class KeySlot(msgspec.Struct, frozen=True):
    """The key of an encrypted chain, wrapped by a passphrase or key file (`vbrcore.secrets.keyslots`)."""

    slot_id: str
    kdf: str
    salt: bytes
    memory_kib: int
    passes: int
    lanes: int
    nonce: bytes
    wrapped: bytes


class Contents(msgspec.Struct, frozen=True, omit_defaults=True):
    """The JSON part of a contents list. Byte strings are base64 there; ids of files are 32 hexadecimal digits.

    `revision` orders the lists of one run; the list with the highest (`run_number`, `revision`) of a generation says
    which `generation_files` there are. A later generation has a higher `generation_number`. `machine_id` and `machine`
    are the chain's key where it is one machine's.
    """

    writer: str
    run_number: int
    revision: int
    session_id: str
    job_id: str
    job_name: str
    created: float
    last_sequence: int
    generation_files: tuple[str, ...]
    tables: tuple[TablePart, ...] = ()
    points: tuple[Point, ...] = ()
    damaged: tuple[Damage, ...] = ()
    key_slots: tuple[KeySlot, ...] = ()
    machine_id: str = ""
    machine: str = ""
    generation_number: int = 0

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.tables)


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Contents)


def encode_contents(contents: Contents, gone: bytes = b"") -> bytes:
    """Return the bytes of a contents list. `gone` is the bitmap over all rows in table order (empty: none)."""
    body = _encoder.encode(contents)
    return _HEAD.pack(_MAGIC, len(body), len(gone)) + body + gone


def decode_contents(data: bytes, slot: Slot) -> tuple[Contents, bytes]:
    """Return (contents, gone bitmap) of a file with that slot. Raises `FormatInvalid`."""
    if len(data) < _HEAD.size:
        raise FormatInvalid("a contents list is too short")
    magic, body_length, gone_length = _HEAD.unpack_from(data)
    if magic != _MAGIC or _HEAD.size + body_length + gone_length != len(data):
        raise FormatInvalid("a contents list has the wrong length")
    try:
        contents = _decoder.decode(data[_HEAD.size : _HEAD.size + body_length])
    except UNDECODABLE as error:
        raise FormatInvalid(f"a contents list cannot be read: {error}") from error
    _check(contents, slot)
    if gone_length not in {0, -(-contents.rows // 8)}:
        raise FormatInvalid("the bitmap of gone rows has the wrong length")
    return contents, data[len(data) - gone_length :] if gone_length else b""


def is_gone(gone: bytes | bytearray, row: int) -> bool:
    """Say whether bit `row` of the bitmap is set: least significant bit of the first byte first."""
    return bool(gone) and bool(gone[row >> 3] >> (row & 7) & 1)


def _check(contents: Contents, slot: Slot) -> None:
    """Raise `FormatInvalid` for what cannot be true, however it came by its checksum."""
    numbers = (contents.run_number, contents.revision, contents.last_sequence, contents.generation_number)
    if not all(0 <= number < NUMBERS_END for number in numbers) or not 0 <= contents.created < MOMENTS_END:
        raise FormatInvalid("a contents list has impossible numbers")
    if contents.run_number != slot.run_number:
        raise FormatInvalid("a contents list is of another run than its slot")
    if not all(_FILE_ID.fullmatch(file_id) for file_id in contents.generation_files):
        raise FormatInvalid("a contents list names files by what are no ids")
    if len(contents.key_slots) > MAX_KEY_SLOTS:
        raise FormatInvalid(f"a contents list has {len(contents.key_slots)} key slots; at most {MAX_KEY_SLOTS} may be")
    _check_places(contents, slot)
    _check_points(contents, slot)


def _check_places(contents: Contents, slot: Slot) -> None:
    for part in contents.tables:
        _check_part(part, slot)
    # Parts that lie one on the other would have to be read for ever.
    if contents.rows * ROW_BYTES > slot.body_end:
        raise FormatInvalid("a contents list has more rows than there is place for")
    for damage in contents.damaged:
        if len(damage.digest) != DIGEST_BYTES or not 0 <= damage.offset < 1 << 64:
            raise FormatInvalid("a damage mark is none of an extent")


def _check_points(contents: Contents, slot: Slot) -> None:
    for point in contents.points:
        check_point(point)
        if point.block_size_bytes != slot.block_size_bytes:
            raise FormatInvalid("a point has another block size than its file")
    if len({point.point_id for point in contents.points}) != len(contents.points):
        raise FormatInvalid("a contents list has a point twice")


def _check_part(part: TablePart, slot: Slot) -> None:
    placed = part.offset >= BODY_OFFSET and part.offset % ALIGNMENT_BYTES == 0
    if not placed or part.rows < 0 or part.end > slot.body_end or len(part.sha256) != _SHA256_BYTES:
        raise FormatInvalid("a table part lies outside of its file")


def check_point(point: Point) -> None:
    """Raise `FormatInvalid` for a point from outside that cannot be true."""
    if not 0 <= point.sequence < NUMBERS_END or not 0 <= point.created < MOMENTS_END or not 0 <= point.flags < 1 << 32:
        raise FormatInvalid("a point has impossible numbers")
    if point.block_size_bytes not in BLOCK_SIZES_BYTES:
        raise FormatInvalid(f"a point has blocks of {point.block_size_bytes} bytes")
    if len(point.configuration) not in {0, DIGEST_BYTES}:
        raise FormatInvalid("a point's configuration is no digest")
    for disk in point.disks:
        if len(disk.root) != DIGEST_BYTES or not 0 <= disk.size_bytes <= MAX_DISK_BYTES:
            raise FormatInvalid("a point has an impossible disk")
        if len(disk.root_mac) not in {0, _ROOT_MAC_BYTES}:
            raise FormatInvalid("a point's map root has an impossible authentication code")
