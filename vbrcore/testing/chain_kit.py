"""Disks as dicts of blocks, sent to a chain as a source mover does: for tests of what stands on chains."""

import functools
import random
from collections.abc import Iterable
from pathlib import Path

from vbrcore.backupfile.codec import CODEC_NONE, CODEC_ZSTD, ZERO_DIGEST, checksum, compress, digest
from vbrcore.backupfile.encryption import ChainKey, ExtentSealer
from vbrcore.backupfile.maps import PageBuilder, block_count, leaves
from vbrcore.backupfile.rows import FLAG_ENCRYPTED, KIND_BLOCK, KIND_CONFIGURATION, KIND_PAGE, Row
from vbrcore.backupfile.sealedpoints import seal_point
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.writer import SEND, ChainWriter
from vbrcore.model.ids import new_id
from vbrcore.model.point import Point, PointDisk
from vbrcore.storage.port import Storage

BLOCK = 256 * 1024
DIRECTORY = "job"
CREATED = 1_700_000_000.0


def open_writer(
    storage: Storage, index: Path, session_id: str = "", directory: str = DIRECTORY, **changes: object
) -> ChainWriter:
    arguments: dict[str, object] = {
        "job_id": "j1",
        "job_name": "nightly",
        "session_id": session_id or new_id(),
        "created": CREATED,
        "block_size_bytes": BLOCK,
        "index_directory": index,
    }
    return ChainWriter.open(storage, directory, **(arguments | changes))  # type: ignore[arg-type]


def content(seed: int, length: int = BLOCK) -> bytes:
    """Half compressible, different for each seed."""
    return (random.Random(seed).randbytes(2048) * (length // 2048 + 1))[:length]  # noqa: S311


class Sealing:
    """What makes extents and points those of an encrypted chain."""

    def __init__(self, chain_key: ChainKey, chain_id: bytes) -> None:
        self.chain_key = chain_key
        self.chain_id = chain_id
        self.sealer = ExtentSealer(chain_key, chain_id)


def row_of(data: bytes, kind: int = KIND_BLOCK, sealing: Sealing | None = None) -> tuple[Row, bytes]:
    stored = compress(data, 1)
    codec = CODEC_ZSTD
    if len(stored) >= len(data):
        stored, codec = data, CODEC_NONE
    if sealing is None or kind == KIND_PAGE:
        return Row(digest(data), len(stored), len(data), codec, kind, checksum(stored)), stored
    name = sealing.chain_key.digest(data)
    stored = bytes(sealing.sealer.seal(name, codec, stored))
    return Row(name, len(stored), len(data), codec, kind, checksum(stored), FLAG_ENCRYPTED), stored


def send(
    writer: ChainWriter, data: bytes, kind: int = KIND_BLOCK, owner: int = 1, sealing: Sealing | None = None
) -> bytes:
    row, stored = row_of(data, kind, sealing)
    if writer.lookup([row.digest], owner)[0] == SEND:
        writer.append(row, memoryview(stored), owner)
    return row.digest


def send_disk(
    writer: ChainWriter,
    image: dict[int, bytes],
    size_bytes: int,
    name: str = "d0",
    owner: int = 1,
    *,
    block_size_bytes: int = BLOCK,
    sealing: Sealing | None = None,
) -> PointDisk:
    """`image` maps block index to content; absent blocks are holes."""
    builder = PageBuilder(size_bytes, block_size_bytes)
    pages = []
    for index in sorted(image):
        pages += builder.add_holes(index - builder.position)
        pages += builder.add(send(writer, image[index], owner=owner, sealing=sealing))
    rest, root = builder.finish()
    for _, page in [*pages, *rest]:
        send(writer, page, KIND_PAGE, owner)
    return PointDisk(name, name, size_bytes, root)


def point_of(
    *disks: PointDisk,
    machine: str = "m1",
    configuration: bytes = b"",
    block_size_bytes: int = BLOCK,
    created: float = CREATED,
) -> Point:
    return Point(
        point_id=new_id(),
        session_id="s",
        job_id="j1",
        job_name="nightly",
        plugin="images",
        machine_id=machine,
        machine=machine,
        kind="increment",
        created=created,
        sequence=0,
        disks=disks,
        block_size_bytes=block_size_bytes,
        configuration=configuration,
    )


def send_point(
    writer: ChainWriter,
    image: dict[int, bytes],
    size_bytes: int,
    machine: str = "m1",
    *,
    block_size_bytes: int = BLOCK,
    created: float = CREATED,
    sealing: Sealing | None = None,
) -> Point:
    disk = send_disk(writer, image, size_bytes, block_size_bytes=block_size_bytes, sealing=sealing)
    configuration = send(writer, f"<machine {machine}>".encode(), KIND_CONFIGURATION, sealing=sealing)
    point = point_of(
        disk, machine=machine, configuration=configuration, block_size_bytes=block_size_bytes, created=created
    )
    if sealing is not None:
        point = seal_point(point, sealing.chain_key, sealing.chain_id)
    return writer.commit_point(point)


def restore(
    storage: Storage, point_id: str, chain_key: ChainKey | None = None, *, directory: str = DIRECTORY
) -> dict[str, dict[int, bytes]]:
    return restore_all(storage, [point_id], chain_key, directory=directory)[point_id]


def restore_all(
    storage: Storage, point_ids: Iterable[str], chain_key: ChainKey | None = None, *, directory: str = DIRECTORY
) -> dict[str, dict[str, dict[int, bytes]]]:
    """Return what `restore` does, for several points: a block that they share is read once."""
    with ChainReader.open(storage, directory) as reader:
        if chain_key is not None:
            reader.unlock(chain_key)
        block = functools.cache(reader.block)
        images = {}
        for point_id in point_ids:
            point = reader.point(point_id)
            if point.configuration:
                block(point.configuration)
            images[point_id] = {
                disk.name: {
                    index: block(name)
                    for index, name in leaves(disk.root, disk.size_bytes, point.block_size_bytes, block)
                    if name != ZERO_DIGEST
                }
                for disk in point.disks
            }
        return images


def size_of(blocks: int) -> int:
    size_bytes = blocks * BLOCK
    assert block_count(size_bytes, BLOCK) == blocks
    return size_bytes
