"""The map of the disk as it is now: batches finish in any order, leaves are fed in disk order."""

import threading
from collections.abc import Callable

from vbrcore.backupfile.maps import Page, PageBuilder, height
from vbrcore.model.errors import DataCorrupt
from vbrcore.mover.plan import Batch
from vbrcore.mover.previous import PreviousMap


class NewMap:
    """Takes the digests of batches and hands finished pages to `emit`. Safe for several threads."""

    def __init__(
        self,
        size_bytes: int,
        block_size_bytes: int,
        previous: PreviousMap | None,
        emit: Callable[[Page], None],
    ) -> None:
        self.done_blocks = 0
        self._size_bytes = size_bytes
        self._height = height(size_bytes, block_size_bytes)
        self._builder = PageBuilder(size_bytes, block_size_bytes)
        self._previous = previous
        self._emit = emit
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[Batch, list[bytes]]] = {}
        self._next = 0

    def add(self, batch: Batch, digests: list[bytes]) -> None:
        """Give the digests of a batch's blocks that were read, in order.

        Raises `DataCorrupt` when the previous map cannot be read where its nodes were to be taken over.
        """
        with self._lock:
            self._waiting[batch.number] = batch, digests
            while (step := self._waiting.pop(self._next, None)) is not None:
                self._feed(*step)
                self._next += 1

    def finish(self) -> bytes:
        """Return the digest of the root, after the last batch."""
        with self._lock:
            pages, root = self._builder.finish()
            self._give(pages)
            return root

    def _feed(self, batch: Batch, digests: list[bytes]) -> None:
        names = iter(digests)
        for run in batch.runs:
            if run.state == "zero":
                self._give(self._builder.add_holes(run.count))
            elif run.state == "unchanged":
                self._take_over(run.first, run.count)
            else:
                for _ in range(run.count):
                    self._give(self._builder.add(next(names)))
            self.done_blocks = run.first + run.count

    def _take_over(self, first: int, count: int) -> None:
        if self._previous is None:
            raise DataCorrupt("blocks are called unchanged, but there is no previous map")
        for level, name in self._previous.subtrees(first, count, self._size_bytes, self._height):
            if name is None:
                raise DataCorrupt(f"the previous map cannot be read at block {first}")
            if level:
                self._give(self._builder.add_subtree(name, level))
            else:
                self._give(self._builder.add(name))

    def _give(self, pages: list[Page]) -> None:
        for page in pages:
            self._emit(page)
