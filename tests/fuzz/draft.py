"""A backup file taken apart, to be put together with other fields and all its checksums right."""

import base64
import hashlib
import json
import struct
from typing import Any

from vbrcore.backupfile.codec import checksum

SLOT = struct.Struct("<8sIIQII16s16s16sQQQ32sQI")
ROW = struct.Struct("<32sQIIQBBHI")
HEADER = struct.Struct("<4sIQ32sIBBH")
SLOT_PLACES = (0, 65536)
# Fields of slots, rows and headers that are numbers: (index, bits).
SLOT_NUMBERS = {
    "version": (1, 32),
    "features": (2, 32),
    "sequence": (3, 64),
    "flags": (4, 32),
    "block_size": (5, 32),
    "body_end": (9, 64),
    "offset": (10, 64),
    "length": (11, 64),
    "run_number": (13, 64),
    "alignment": (14, 32),
}
ROW_NUMBERS = {"offset": (1, 64), "stored": (2, 32), "raw": (3, 32), "kind": (5, 8), "codec": (6, 8), "flags": (7, 16)}


class Draft:
    """Works on the bytes of one file; what cannot be taken apart (it was spoilt before) raises `NotWhole`."""

    def __init__(self, data: bytearray) -> None:
        self.data = data

    def slot(self, place: int) -> list[Any]:
        if len(self.data) < place + 4096:
            raise NotWhole
        return list(SLOT.unpack_from(self.data, place))

    def put_slot(self, place: int, fields: list[Any]) -> None:
        head = SLOT.pack(*fields).ljust(4064, b"\0")
        self.data[place : place + 4096] = head + hashlib.sha256(head).digest()

    def newest(self) -> int:
        """Return the place of the slot with the higher sequence."""
        return max(SLOT_PLACES, key=lambda place: int(self.slot(place)[3]))

    def contents(self) -> tuple[bytes, bytes]:
        """Return (JSON text, bitmap of gone rows) of the newest list."""
        slot = self.slot(self.newest())
        offset, length = slot[10], slot[11]
        if offset + length > len(self.data) or length < 16:
            raise NotWhole
        _, text_length, _ = struct.unpack_from("<8sII", self.data, offset)
        body = bytes(self.data[offset + 16 : offset + length])
        return body[:text_length], body[text_length:]

    def said(self) -> dict[str, Any]:
        try:
            said = json.loads(self.contents()[0])
        except (ValueError, RecursionError) as error:
            raise NotWhole from error
        if not isinstance(said, dict):
            raise NotWhole
        return said

    def put_contents(self, text: bytes, gone: bytes) -> None:
        """Append a list and make both slots name it."""
        slot = self.slot(self.newest())
        offset = max(131072, -(-len(self.data) // 4096) * 4096)
        data = struct.pack("<8sII", b"VBRCLIST", len(text), len(gone)) + text + gone
        self.data += bytes(offset - len(self.data)) + data
        self.data += bytes(-len(self.data) % 4096)
        slot[9:13] = len(self.data), offset, len(data), hashlib.sha256(data).digest()
        for place in SLOT_PLACES:
            slot[3] += 1
            slot[3] %= 1 << 64
            self.put_slot(place, slot)

    def put_said(self, said: dict[str, Any]) -> None:
        self.put_contents(json.dumps(said).encode(), self.contents()[1])

    def rows(self, part: dict[str, Any]) -> list[list[Any]]:
        try:
            start, count = int(part["offset"]) + 64, int(part["rows"])
        except (LookupError, TypeError, ValueError) as error:
            raise NotWhole from error
        if not 0 <= count <= 4096 or start < 0 or start + count * 64 > len(self.data):
            raise NotWhole
        return [list(ROW.unpack_from(self.data, start + number * 64)) for number in range(count)]

    def append(self, data: bytes) -> int:
        """Append bytes at the next place for an item; return it. It is below the body end of the next list."""
        self.data += bytes(-len(self.data) % 4096)
        offset = len(self.data)
        self.data += data
        return offset

    def put_rows(self, said: dict[str, Any], number: int, rows: list[list[Any]]) -> None:
        """Write a table part anew, and a list that names it in the place of the old one."""
        packed = b"".join(ROW.pack(*row) for row in rows)
        offset = self.append(struct.pack("<4sIQ48x", b"VBRT", 64, len(rows)) + packed)
        part = {"offset": offset, "rows": len(rows), "sha256": _base64(hashlib.sha256(packed).digest())}
        said["tables"][number : number + 1] = [part]
        self.put_said(said)


class NotWhole(Exception):
    """The file was spoilt before in such a way that it cannot be taken apart any more."""


def header(row: list[Any]) -> bytes:
    """Return the header of an extent that agrees with a row."""
    name, _, stored, raw, xxh3, kind, codec, flags, _ = row
    head = HEADER.pack(b"VBRX", stored, xxh3, name, raw, kind, codec, flags)
    return head + struct.pack("<Q", checksum(head))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
