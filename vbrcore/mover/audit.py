"""The audit of change tracking: a rotating sample of the blocks that it calls unchanged is read nevertheless."""

from collections.abc import Iterable, Iterator
from typing import Final

from vbrcore.mover.plan import Run

MIN_BLOCKS: Final = 8
SHARE: Final = 0.05


class Tally:
    """Counts the blocks of the runs that pass through it, for the size of the sample."""

    def __init__(self) -> None:
        self.read_blocks = 0
        self.unchanged_blocks = 0

    def watch(self, runs: Iterable[Run]) -> Iterator[Run]:
        for run in runs:
            if run.state == "data":
                self.read_blocks += run.count
            elif run.state == "unchanged":
                self.unchanged_blocks += run.count
            yield run

    @property
    def sample_blocks(self) -> int:
        """How many blocks to audit: the larger of 8 and 5 % of what is read, no more than there are."""
        return min(self.unchanged_blocks, max(MIN_BLOCKS, round(self.read_blocks * SHARE)))


def sample(runs: Iterable[Run], tally: Tally, seed: int) -> list[int]:
    """Return the blocks to audit, in disk order.

    Up to half are neighbours of changes, where a tracker that rounds or loses the edge of a write shows first. The
    others are spread over the disk and move on by one with each seed, so that repeated sessions cover it.
    """
    marked = list(_marked(runs))
    count, total = tally.sample_blocks, tally.unchanged_blocks
    if not count:
        return []
    neighbours = list(_neighbours(marked))
    near = min(len(neighbours), count // 2)
    start = seed * near % max(1, len(neighbours))
    chosen = set((neighbours + neighbours)[start : start + near])
    left = count - near
    for step in range(left):
        ordinal = (seed + step * total // left) % total
        while ordinal in chosen:
            ordinal = (ordinal + 1) % total
        chosen.add(ordinal)
    return list(_at(sorted(chosen), (run for run, _, _ in marked)))


def _marked(runs: Iterable[Run]) -> Iterator[tuple[Run, bool, bool]]:
    """Yield the unchanged runs, each with whether what was changed ends before it and begins after it."""
    open_run: tuple[Run, bool] | None = None
    changed = False
    for run in runs:
        if run.state == "unchanged":
            if open_run is not None:
                yield *open_run, False
            open_run, changed = (run, changed), False
        else:
            if open_run is not None:
                yield *open_run, run.state == "data"
            open_run, changed = None, run.state == "data"
    if open_run is not None:
        yield *open_run, False


def _neighbours(marked: Iterable[tuple[Run, bool, bool]]) -> Iterator[int]:
    """Yield those next to changes as ordinals among all unchanged blocks."""
    counted = 0
    for run, before, after in marked:
        if before:
            yield counted
        if after and (run.count > 1 or not before):
            yield counted + run.count - 1
        counted += run.count


def _at(ordinals: list[int], runs: Iterable[Run]) -> Iterator[int]:
    """Yield the blocks that have these ordinals among all unchanged ones."""
    wanted = iter(ordinals)
    ordinal = next(wanted, None)
    counted = 0
    for run in runs:
        while ordinal is not None and ordinal < counted + run.count:
            yield run.first + ordinal - counted
            ordinal = next(wanted, None)
        counted += run.count
