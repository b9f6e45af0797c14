"""What to do with each block of a disk: from byte extents of a reader to runs of blocks, and to batches of work."""

from collections.abc import Iterable, Iterator
from typing import Literal

import msgspec

from vbrcore.backupfile.maps import block_count
from vbrcore.model.errors import SourceReadFailed
from vbrcore.plugins.mover import Extent

State = Literal["data", "zero", "unchanged"]


class Run(msgspec.Struct, frozen=True, gc=False):
    """`count` blocks from block `first` on, all to be treated alike."""

    first: int
    count: int
    state: State


def block_runs(extents: Iterable[Extent], size_bytes: int, block_size_bytes: int) -> Iterator[Run]:
    """Yield runs that cover the disk in order. A block is `data` if any byte of it is, or if its states differ.

    Raises `SourceReadFailed` for extents that leave gaps, overlap or do not end where the disk ends.
    """
    position = 0
    partial: State | None = None  # of the block that holds `position`, where that is not its first byte
    for extent in extents:
        end = extent.offset + extent.length
        if extent.offset != position or extent.length <= 0 or end > size_bytes:
            raise SourceReadFailed(f"the reader's extents are out of order at offset {extent.offset}")
        if partial is not None:
            partial = partial if partial == extent.state else "data"
            block_end = min((position // block_size_bytes + 1) * block_size_bytes, size_bytes)
            if end < block_end:
                position = end
                continue
            yield Run(position // block_size_bytes, 1, partial)
            position, partial = block_end, None
            if position == end:
                continue
        first = position // block_size_bytes
        last = block_count(size_bytes, block_size_bytes) if end == size_bytes else end // block_size_bytes
        if last > first:
            yield Run(first, last - first, extent.state)
        if end > last * block_size_bytes:
            partial = extent.state
        position = end
    if position != size_bytes:
        raise SourceReadFailed(f"the reader's extents end at {position} of {size_bytes} bytes")


def joined(runs: Iterable[Run]) -> Iterator[Run]:
    """Join neighbours of the same state."""
    last: Run | None = None
    for run in runs:
        if last is not None and last.state == run.state:
            last = Run(last.first, last.count + run.count, last.state)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Consecutive runs with at most a batch's number of `data` blocks; `number` counts from 0 in disk order."""

    number: int
    runs: tuple[Run, ...]

    def positions(self) -> list[int]:
        """The blocks to read."""
        return [block for run in self.runs if run.state == "data" for block in range(run.first, run.first + run.count)]


MAX_RUNS_PER_BATCH = 256


def batches(runs: Iterable[Run], max_blocks: int) -> Iterator[Batch]:
    """Cut runs into batches of at most `max_blocks` blocks to read and a bounded number of runs."""
    number, room, collected = 0, max_blocks, list[Run]()
    for run in runs:
        first, left = run.first, run.count
        while left:
            count = min(left, room) if run.state == "data" else left
            collected.append(Run(first, count, run.state))
            first, left = first + count, left - count
            room -= count if run.state == "data" else 0
            if not room or len(collected) >= MAX_RUNS_PER_BATCH:
                yield Batch(number, tuple(collected))
                number, room, collected = number + 1, max_blocks, []
    if collected:
        yield Batch(number, tuple(collected))
