"""Disks as dicts of blocks, sent to a chain as a source mover does: for tests of what stands on chains."""

import random
from pathlib import Path

from vbrcore.backupfile.codec import CODEC_NONE, CODEC_ZSTD, ZERO_DIGEST, checksum, compress, digest
from vbrcore.backupfile.maps import PageBuilder, block_count
from vbrcore.backupfile.rows import KIND_BLOCK, KIND_CONFIGURATION, KIND_PAGE, Row
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import SEND, ChainWriter
from vbrcore.model.ids import new_id
from vbrcore.model.point import Point, PointDisk
from vbrcore.storage.port import Storage

BLOCK = 256 * 1024
DIRECTORY = "job"


def open_writer(storage: Storage, index: Path, session_id: str = "", **changes: object) -> ChainWriter:
    arguments: dict[str, object] = {
        "job_id": "j1",
        "job_name": "nightly",
        "session_id": session_id or new_id(),
        "created": 1_700_000_000.0,
        "block_size_bytes": BLOCK,
        "index_directory": index,
    }
    return ChainWriter.open(storage, DIRECTORY, **(arguments | changes))  # type: ignore[arg-type]


def content(seed: int, length: int = BLOCK) -> bytes:
    """Half compressible, different for each seed."""
    return (random.Random(seed).randbytes(2048) * (length // 2048 + 1))[:length]  # noqa: S311


def row_of(data: bytes, kind: int = KIND_BLOCK) -> tuple[Row, bytes]:
    stored = compress(data, 1)
    codec = CODEC_ZSTD
    if len(stored) >= len(data):
        stored, codec = data, CODEC_NONE
    return Row(digest(data), len(stored), len(data), codec, kind, checksum(stored)), stored


def send(writer: ChainWriter, data: bytes, kind: int = KIND_BLOCK, owner: int = 1) -> bytes:
    row, stored = row_of(data, kind)
    if writer.lookup([row.digest], owner)[0] == SEND:
        writer.append(row, memoryview(stored), owner)
    return row.digest


def send_disk(
    writer: ChainWriter, image: dict[int, bytes], size_bytes: int, name: str = "d0", owner: int = 1
) -> PointDisk:
    """`image` maps block index to content; absent blocks are holes."""
    builder = PageBuilder(size_bytes, BLOCK)
    pages = []
    for index in sorted(image):
        pages += builder.add_holes(index - builder.position)
        pages += builder.add(send(writer, image[index], owner=owner))
    rest, root = builder.finish()
    for _, page in [*pages, *rest]:
        send(writer, page, KIND_PAGE, owner)
    return PointDisk(name, name, size_bytes, root)


def point_of(*disks: PointDisk, machine: str = "m1", configuration: bytes = b"") -> Point:
    return Point(
        point_id=new_id(),
        session_id="s",
        job_id="j1",
        job_name="nightly",
        plugin="images",
        machine_id=machine,
        machine=machine,
        kind="increment",
        created=1_700_000_000.0,
        sequence=0,
        disks=disks,
        block_size_bytes=BLOCK,
        configuration=configuration,
    )


def send_point(writer: ChainWriter, image: dict[int, bytes], size_bytes: int, machine: str = "m1") -> Point:
    disk = send_disk(writer, image, size_bytes)
    configuration = send(writer, f"<machine {machine}>".encode(), KIND_CONFIGURATION)
    return writer.commit_point(point_of(disk, machine=machine, configuration=configuration))


def restore(storage: Storage, point_id: str) -> dict[str, dict[int, bytes]]:
    with ChainReader.open(storage, DIRECTORY) as reader:
        point = reader.point(point_id)
        if point.configuration:
            reader.block(point.configuration)
        return {
            disk.name: {index: reader.block(name) for index, name in reader.leaves(point, disk) if name != ZERO_DIGEST}
            for disk in point.disks
        }


def size_of(blocks: int) -> int:
    size_bytes = blocks * BLOCK
    assert block_count(size_bytes, BLOCK) == blocks
    return size_bytes
