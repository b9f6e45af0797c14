"""docs/FORMAT.md is enough: a disk is restored with what it says, and with none of the code under test."""

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
import zstandard
from blake3 import blake3

from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

Row = tuple[bytes, int, int, int, int]  # file, offset, stored length, raw length, codec


def open_backup_file(data: bytes) -> tuple[dict[str, Any], dict[bytes, Row], bytes]:
    """Sections 2 to 4: return (contents, rows by digest, generation id)."""
    slots = []
    for offset in (0, 65536):
        slot = data[offset : offset + 4096]
        if slot[:8] == b"VBRCFILE" and hashlib.sha256(slot[:4064]).digest() == slot[4064:]:
            assert struct.unpack_from("<II", slot, 8) == (1, 0)
            slots.append(slot)
    for slot in sorted(slots, key=lambda slot: -int.from_bytes(slot[16:24], "little")):
        start, length = struct.unpack_from("<QQ", slot, 88)
        contents = data[start : start + length]
        if hashlib.sha256(contents).digest() == slot[104:136]:
            break
    else:
        raise AssertionError("damaged")
    assert contents[:8] == b"VBRCLIST"
    text_length, gone_length = struct.unpack_from("<II", contents, 8)
    said = json.loads(contents[16 : 16 + text_length])
    gone = contents[16 + text_length :]
    assert len(gone) == gone_length
    rows: dict[bytes, Row] = {}
    number = 0
    for part in said.get("tables", []):
        start = part["offset"]
        assert data[start : start + 4] == b"VBRT"
        table = data[start + 64 : start + 64 + 64 * part["rows"]]
        assert hashlib.sha256(table).digest() == base64.b64decode(part["sha256"])
        for place in range(0, len(table), 64):
            name, offset, stored, raw, _, _, codec = struct.unpack_from("<32sQIIQBB", table, place)
            if not (gone and gone[number // 8] >> number % 8 & 1):
                rows[name] = data, offset, stored, raw, codec
            number += 1
    return said, rows, slot[64:80]


def content_of(rows: dict[bytes, Row], name: bytes) -> bytes:
    """Section 3."""
    data, offset, stored, raw, codec = rows[name]
    header = data[offset : offset + 64]
    assert header[:4] == b"VBRX"
    assert header[16:48] == name
    content = data[offset + 64 : offset + 64 + stored]
    if codec == 1:
        content = zstandard.ZstdDecompressor().decompress(content, max_output_size=raw)
    assert len(content) == raw
    assert blake3(content).digest() == name
    return content


def restore(rows: dict[bytes, Row], disk: dict[str, Any], block_size: int) -> bytes:
    """Section 5."""
    size = disk["size_bytes"]
    blocks = -(-size // block_size)
    height = 1
    while 256**height < blocks:
        height += 1
    image = bytearray(size)

    def enter(name: bytes, level: int, first: int) -> None:
        if not any(name):
            return
        content = content_of(rows, name)
        if level == 0:
            assert len(content) == min(block_size, size - first * block_size)
            image[first * block_size : first * block_size + len(content)] = content
            return
        for entry in range(256):
            enter(content[entry * 32 : entry * 32 + 32], level - 1, first + entry * 256 ** (level - 1))

    enter(base64.b64decode(disk["root"]), height, 0)
    return bytes(image)


@pytest.mark.parametrize("sealed", [True, False])
def test_points_restore_by_the_specification_alone(sealed: bool, tmp_path: Path) -> None:
    storage = MemoryStorage()
    size = kit.size_of(300) + 777
    images = [
        {0: kit.content(1), 5: kit.content(2), 300: kit.content(3, 777)},
        {0: kit.content(1), 5: kit.content(4), 256: kit.content(5), 300: kit.content(6, 777)},
    ]
    for image in images:
        writer = kit.open_writer(storage, tmp_path)
        kit.send_point(writer, image, size)
        if sealed:
            writer.seal()
        writer.close()
    rows: dict[bytes, Row] = {}
    points = []
    generations = set()
    for name, content in storage.files.items():
        if name.endswith(".vbf"):
            said, found, generation = open_backup_file(bytes(content))
            rows |= found
            points += said["points"]
            generations.add(generation)
    assert len(generations) == 1
    points.sort(key=lambda point: point["sequence"])
    assert [point["kind"] for point in points] == ["full", "increment"]
    for point, image in zip(points, images, strict=True):
        expected = bytearray(size)
        for index, block in image.items():
            expected[index * kit.BLOCK : index * kit.BLOCK + len(block)] = block
        assert restore(rows, point["disks"][0], point["block_size_bytes"]) == expected
        assert content_of(rows, base64.b64decode(point["configuration"])) == b"<machine m1>"
