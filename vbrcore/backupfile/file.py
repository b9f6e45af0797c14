"""A backup file as it stands on storage: opened by its newest valid slot, read by extent."""

import hashlib

import msgspec

from vbrcore.backupfile.codec import Buffer, checksum, decompress, digest
from vbrcore.backupfile.contents import Contents, decode_contents
from vbrcore.backupfile.rows import HEADER_BYTES, Row, check_header, unpack_row
from vbrcore.backupfile.slots import BODY_OFFSET, MAGIC, SLOT_OFFSETS, Slot, unpack_slot
from vbrcore.model.errors import DataCorrupt, FormatInvalid, FormatNewer, KeyNeeded, VbrError
from vbrcore.storage.port import ALIGNMENT_BYTES, SLOT_BYTES, Reader, Storage

_SECTOR_BYTES = 512


class BackupFile(msgspec.Struct, frozen=True):
    """What an opened file says. `place` is the index of the slot that counts.

    `last_sequence` and `last_run_number` are the highest of both slots.
    """

    name: str
    slot: Slot
    place: int
    last_sequence: int
    contents: Contents
    gone: bytes = b""
    last_run_number: int = 0

    @property
    def file_id(self) -> bytes:
        return self.slot.file_id

    @property
    def age(self) -> tuple[int, int]:
        """Orders the contents lists of a chain by when they were written, newest last."""
        return self.contents.run_number, self.contents.revision

    @property
    def rank(self) -> tuple[int, int, int]:
        """Orders the files of a chain: by generation, then by contents list; newest last."""
        return self.contents.generation_number, *self.age


def read_slots(storage: Storage, name: str) -> tuple[Slot | VbrError, Slot | VbrError]:
    """Return both slots of a file, an error in place of one that is not valid."""
    first, second = SLOT_OFFSETS
    return _read_slot(storage, name, first), _read_slot(storage, name, second)


def open_file(storage: Storage, name: str) -> BackupFile:
    """Open a file by its newest slot whose contents list is intact.

    Raises `FormatNewer` when a slot of it is of a later version, `FormatInvalid` when neither slot leads anywhere.
    """
    slots = read_slots(storage, name)
    errors = [slot for slot in slots if isinstance(slot, VbrError)]
    for error in errors:
        if isinstance(error, FormatNewer):
            raise FormatNewer(f"{name}: {error}") from error
        if not isinstance(error, FormatInvalid):
            raise error
    valid = sorted(
        ((slot, place) for place, slot in enumerate(slots) if isinstance(slot, Slot)),
        key=lambda pair: pair[0].sequence,
        reverse=True,
    )
    problem: VbrError = FormatInvalid(f"{name}: both slots are damaged, or this is no backup file")
    for slot, place in valid:
        try:
            contents, gone = _read_contents(storage, name, slot)
        except (FormatInvalid, DataCorrupt) as error:
            problem = FormatInvalid(f"{name}: {error}")
        else:
            last_run_number = max(slot.run_number for slot, _ in valid)
            return BackupFile(name, slot, place, valid[0][0].sequence, contents, gone, last_run_number)
    raise problem


def was_never_committed(storage: Storage, name: str) -> bool:
    """Say whether a file that cannot be opened is what a first commit has left that did not come to its end.

    That commit writes the first slot, syncs, writes the second: so the second is zero or absent, and of the first some
    sectors were never written. What zeros there are in a whole slot does not matter: it can be opened.
    """
    first, second = (storage.read(name, offset, SLOT_BYTES) for offset in SLOT_OFFSETS)
    if first[:_SECTOR_BYTES].strip(b"\0") and not first.startswith(MAGIC):
        return False  # something else
    ends = first[:_SECTOR_BYTES], first[SLOT_BYTES - _SECTOR_BYTES :]  # all between is reserved
    return not second.strip(b"\0") and not all(end.strip(b"\0") for end in ends)


def locate(file: BackupFile, packed: bytes) -> tuple[Row, int]:
    """Return (row, offset) of one of a file's rows, of 64 bytes.

    Raises `FormatInvalid` or `FormatNewer`, also where the extent would not lie in the file's body: so nobody takes
    memory for more than there is.
    """
    row, offset = unpack_row(packed)
    if not BODY_OFFSET <= offset <= file.slot.body_end - HEADER_BYTES - row.stored_length or offset % ALIGNMENT_BYTES:
        raise FormatInvalid(f"{file.name}: the extent of {row.digest.hex()[:16]} lies outside of the file")
    return row, offset


def read_stored(reader: Reader, offset: int, row: Row, buffer: bytearray | memoryview) -> None:
    """Fill `buffer` (`row.stored_length` bytes) from the extent at `offset`; verify header and checksum.

    Raises `DataCorrupt`.
    """
    header = bytearray(HEADER_BYTES)
    wanted = HEADER_BYTES + row.stored_length
    if len(buffer) != row.stored_length or reader.read_into(offset, [header, buffer]) != wanted:
        raise DataCorrupt(f"the extent of {row.digest.hex()[:16]} is cut off")
    check_stored(header, buffer, row)


def check_stored(header: Buffer, stored: Buffer, row: Row) -> None:
    """Raise `DataCorrupt` unless an extent's header and stored bytes are what its row says."""
    check_header(header, row)
    if checksum(stored) != row.checksum:
        raise DataCorrupt(f"the stored bytes of {row.digest.hex()[:16]} are damaged")


def stands(reader: Reader, file: BackupFile, packed: bytes) -> bool:
    """Say whether the extent of a row is where the row says, by its header."""
    header = bytearray(HEADER_BYTES)
    try:
        row, offset = locate(file, packed)
        reader.read_into(offset, [header])
        check_header(header, row)
    except (FormatInvalid, FormatNewer, DataCorrupt):
        return False
    return True


def content_of(row: Row, stored: Buffer) -> bytes:
    """Return the raw content of an extent, verified by its digest. Raises `DataCorrupt`, `KeyNeeded`."""
    if row.encrypted:
        raise KeyNeeded(f"the content of {row.digest.hex()[:16]} is encrypted")
    raw = decompress(stored, row.raw_length, row.codec)
    if digest(raw) != row.digest:
        raise DataCorrupt(f"the content of {row.digest.hex()[:16]} has another digest")
    return bytes(raw)


def _read_slot(storage: Storage, name: str, offset: int) -> Slot | VbrError:
    try:
        return unpack_slot(storage.read(name, offset, SLOT_BYTES))
    except VbrError as error:
        return error


def _read_contents(storage: Storage, name: str, slot: Slot) -> tuple[Contents, bytes]:
    # Never more than there is: a length from the file must not decide how much memory is taken.
    size_bytes = storage.size(name)
    if slot.contents_offset + slot.contents_length > size_bytes:
        raise DataCorrupt("the contents list is cut off")
    if slot.body_end >= size_bytes + slot.alignment_bytes:  # the last item need not be padded
        raise DataCorrupt(f"the file is cut off: it has {size_bytes} bytes, and its body ends at {slot.body_end}")
    data = storage.read(name, slot.contents_offset, slot.contents_length)
    if hashlib.sha256(data).digest() != slot.contents_sha256:
        raise DataCorrupt("the contents list is damaged")
    return decode_contents(data, slot)
