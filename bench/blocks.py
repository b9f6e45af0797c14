"""What a disk is made of, block by block: the ground on which the limits are measured."""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import blake3
import msgspec

from bench.corpus import extents

THREADS: Final = os.cpu_count() or 1


class Survey(msgspec.Struct, frozen=True):
    """`unique` are the offsets of the first block of each content; `places` are (offset, index in `unique`).

    Blocks of zeros, in holes or not, stand in neither. `data_offsets` are all blocks that touch an extent.
    """

    size_bytes: int
    block_bytes: int
    data_offsets: tuple[int, ...]
    unique: tuple[int, ...]
    places: tuple[tuple[int, int], ...]


def survey(disk: Path, block_bytes: int) -> Survey:
    """Read the disk once, on all cores."""
    size_bytes = disk.stat().st_size
    offsets = data_offsets(disk, block_bytes)
    digests: list[bytes] = [b""] * len(offsets)
    zeros = bytearray(block_bytes)

    def name(index: int, block: memoryview) -> None:
        if zeros[: len(block)] != block:
            digests[index] = blake3.blake3(block).digest()

    read_all(disk, offsets, block_bytes, lambda: name)
    unique: list[int] = []
    places: list[tuple[int, int]] = []
    known: dict[bytes, int] = {}
    for offset, digest in zip(offsets, digests, strict=True):
        if not digest:
            continue
        if digest not in known:
            known[digest] = len(unique)
            unique.append(offset)
        places.append((offset, known[digest]))
    return Survey(size_bytes, block_bytes, tuple(offsets), tuple(unique), tuple(places))


def data_offsets(disk: Path, block_bytes: int) -> list[int]:
    """Return the offsets of the blocks that are no holes, in order."""
    found: dict[int, None] = {}
    for start, length in extents(disk):
        first = start // block_bytes * block_bytes
        found |= dict.fromkeys(range(first, start + length, block_bytes))
    return list(found)


Work = Callable[[int, memoryview], object]


def read_all(disk: Path, offsets: list[int], block_bytes: int, make_work: Callable[[], Work]) -> None:
    """Call `work(index, block)` for each offset, on all cores, each with one buffer and one `work` of its own."""
    with disk.open("rb", buffering=0) as file:
        descriptor = file.fileno()

        def worker(indexes: Iterator[int]) -> None:
            work = make_work()
            buffer = memoryview(bytearray(block_bytes))
            for index in indexes:
                if index >= len(offsets):
                    return
                length = os.preadv(descriptor, [buffer], offsets[index])
                work(index, buffer[:length])

        on_all_cores(worker)


def on_all_cores(worker: Callable[[Iterator[int]], None]) -> None:
    """Run `worker` in as many threads as there are cores; they draw their indexes from one counter."""
    indexes = itertools.count()
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            worker(indexes)
        except BaseException as error:  # noqa: BLE001 - raised again below, in the caller's thread
            errors.append(error)

    threads = [threading.Thread(target=guarded) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
