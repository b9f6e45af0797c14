"""Slots: the two 4 KiB roots of a file, at 0 and 64 KiB (docs/FORMAT.md, "Slots"). The newest valid one is the file."""

import hashlib
import struct
from typing import Final

import msgspec

from vbrcore.model.errors import FormatInvalid, FormatNewer
from vbrcore.model.foreign import NUMBERS_END
from vbrcore.model.job import BLOCK_SIZES_BYTES
from vbrcore.storage.port import ALIGNMENT_BYTES, SLOT_BYTES

SLOT_OFFSETS: Final = (0, 64 * 1024)
BODY_OFFSET: Final = 128 * 1024
VERSION: Final = 1
MAGIC: Final = b"VBRCFILE"

FEATURE_ENCRYPTED: Final = 1
KNOWN_FEATURES: Final = FEATURE_ENCRYPTED  # any other bit makes the file one of a later version
FLAG_SEALED: Final = 1
FLAG_FULL: Final = 2

MAX_CONTENTS_BYTES: Final = 128 * 1024 * 1024
MAX_FILE_BYTES: Final = 1 << 60
MAX_ALIGNMENT_BYTES: Final = 1024 * 1024

_SLOT = struct.Struct("<8sIIQII16s16s16sQQQ32sQII")
_SUM_BYTES = 32
_SUM_OFFSET = SLOT_BYTES - _SUM_BYTES


class Slot(msgspec.Struct, frozen=True):
    """See docs/FORMAT.md. Ids are 16 bytes; `contents_sha256` 32; offsets and lengths in bytes."""

    sequence: int
    flags: int
    block_size_bytes: int
    file_id: bytes
    chain_id: bytes
    generation_id: bytes
    body_end: int
    contents_offset: int
    contents_length: int
    contents_sha256: bytes
    run_number: int
    features: int = 0
    alignment_bytes: int = ALIGNMENT_BYTES

    @property
    def sealed(self) -> bool:
        return bool(self.flags & FLAG_SEALED)

    @property
    def encrypted(self) -> bool:
        return bool(self.features & FEATURE_ENCRYPTED)

    @property
    def full(self) -> bool:
        """The first file of its generation."""
        return bool(self.flags & FLAG_FULL)


def pack_slot(slot: Slot) -> bytes:
    """Return the 4 KiB of a slot."""
    head = _SLOT.pack(
        MAGIC,
        VERSION,
        slot.features,
        slot.sequence,
        slot.flags,
        slot.block_size_bytes,
        slot.file_id,
        slot.chain_id,
        slot.generation_id,
        slot.body_end,
        slot.contents_offset,
        slot.contents_length,
        slot.contents_sha256,
        slot.run_number,
        slot.alignment_bytes,
        0,
    ).ljust(_SUM_OFFSET, b"\0")
    return head + hashlib.sha256(head).digest()


def unpack_slot(data: bytes) -> Slot:
    """Return the slot in `data`. Raises `FormatInvalid`, or `FormatNewer` for an intact slot of a later version."""
    if len(data) != SLOT_BYTES or data[:8] != MAGIC:
        raise FormatInvalid("not a slot")
    if hashlib.sha256(data[:_SUM_OFFSET]).digest() != data[_SUM_OFFSET:]:
        raise FormatInvalid("a slot's own checksum does not match")
    _, version, features, *fields, alignment_bytes, _ = _SLOT.unpack_from(data)
    if version > VERSION or features & ~KNOWN_FEATURES:
        raise FormatNewer(f"the file has format version {version} and features {features:#x}")
    values = dict(zip(Slot.__struct_fields__, fields, strict=False))
    slot = Slot(**values, features=features, alignment_bytes=alignment_bytes)
    _check(slot)
    return slot


def _check(slot: Slot) -> None:
    """Raise `FormatInvalid` for a slot whose numbers cannot be true, however it came by its checksum."""
    contents_end = slot.contents_offset + slot.contents_length
    places_true = BODY_OFFSET <= slot.contents_offset <= contents_end <= slot.body_end <= MAX_FILE_BYTES
    if not places_true or slot.contents_length > MAX_CONTENTS_BYTES:
        raise FormatInvalid("a slot names impossible places")
    if slot.block_size_bytes not in BLOCK_SIZES_BYTES:
        raise FormatInvalid(f"a slot names blocks of {slot.block_size_bytes} bytes")
    if slot.alignment_bytes % ALIGNMENT_BYTES or not 0 < slot.alignment_bytes <= MAX_ALIGNMENT_BYTES:
        raise FormatInvalid(f"a slot names an alignment of {slot.alignment_bytes} bytes")
    if slot.sequence >= NUMBERS_END or slot.run_number >= NUMBERS_END:
        raise FormatInvalid(f"a slot has sequence {slot.sequence} and run number {slot.run_number}: none is so high")
