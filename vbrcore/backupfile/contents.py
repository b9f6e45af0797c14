"""Contents lists: points, table parts, gone rows and what else a file says of its chain (docs/FORMAT.md)."""

import struct
from typing import Final

import msgspec

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.maps import MAX_DISK_BYTES
from vbrcore.backupfile.rows import HEADER_BYTES, ROW_BYTES
from vbrcore.backupfile.slots import BODY_OFFSET, Slot
from vbrcore.model.errors import FormatInvalid
from vbrcore.model.job import BLOCK_SIZES_BYTES
from vbrcore.model.point import Point
from vbrcore.storage.port import ALIGNMENT_BYTES

_HEAD: Final = struct.Struct("<8sII")
_MAGIC: Final = b"VBRCLIST"
_SHA256_BYTES = 32
_ROOT_MAC_BYTES = 16


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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatInvalid(f"a contents list cannot be read: {error}") from error
    for part in contents.tables:
        _check_part(part, slot)
    if gone_length not in {0, -(-contents.rows // 8)}:
        raise FormatInvalid("the bitmap of gone rows has the wrong length")
    for point in contents.points:
        _check_point(point)
    if not all(len(damage.digest) == DIGEST_BYTES for damage in contents.damaged):
        raise FormatInvalid("a damage mark has no digest")
    return contents, data[len(data) - gone_length :] if gone_length else b""


def is_gone(gone: bytes | bytearray, row: int) -> bool:
    """Say whether bit `row` of the bitmap is set: least significant bit of the first byte first."""
    return bool(gone) and bool(gone[row >> 3] >> (row & 7) & 1)


def _check_part(part: TablePart, slot: Slot) -> None:
    placed = part.offset >= BODY_OFFSET and part.offset % ALIGNMENT_BYTES == 0
    if not placed or part.rows < 0 or part.end > slot.body_end or len(part.sha256) != _SHA256_BYTES:
        raise FormatInvalid("a table part lies outside of its file")


def _check_point(point: Point) -> None:
    if point.block_size_bytes not in BLOCK_SIZES_BYTES:
        raise FormatInvalid(f"a point has blocks of {point.block_size_bytes} bytes")
    if len(point.configuration) not in {0, DIGEST_BYTES}:
        raise FormatInvalid("a point's configuration is no digest")
    for disk in point.disks:
        if len(disk.root) != DIGEST_BYTES or not 0 <= disk.size_bytes <= MAX_DISK_BYTES:
            raise FormatInvalid("a point has an impossible disk")
        if len(disk.root_mac) not in {0, _ROOT_MAC_BYTES}:
            raise FormatInvalid("a point's map root has an impossible authentication code")
