"""The map of a disk in the machine's last point, fetched from the target page by page as it is needed."""

import threading
from collections.abc import Callable, Iterator

from vbrcore.backupfile.codec import DIGEST_BYTES, ZERO_DIGEST
from vbrcore.backupfile.maps import FANOUT, PAGE_BYTES, block_count, height
from vbrcore.mover.plan import Run, State

_MAX_PAGES = 64


class PreviousMap:
    """Answers what stood at a position. Safe for several threads; keeps at most 64 pages of 8 KiB.

    `fetch` returns a page by digest, or None where the chain has no intact one. A digest of None means: not known.
    """

    def __init__(
        self,
        root: bytes,
        size_bytes: int,
        block_size_bytes: int,
        damaged: frozenset[bytes],
        fetch: Callable[[bytes], bytes | None],
    ) -> None:
        self.top = height(size_bytes, block_size_bytes)
        self.size_bytes = size_bytes
        self._blocks = block_count(size_bytes, block_size_bytes)
        self._whole_blocks = size_bytes // block_size_bytes
        self._root = root
        self._damaged = damaged
        self._fetch = fetch
        self._pages: dict[bytes, bytes | None] = {}
        self._lock = threading.Lock()

    def comparable_blocks(self, size_bytes: int) -> int:
        """How many blocks from the start are as long on a disk of `size_bytes` as they were: the last may be short."""
        return self._blocks if size_bytes == self.size_bytes else self._whole_blocks

    def node(self, level: int, index: int) -> bytes | None:
        """Return the digest of a node (level 0: a block); zero: a hole; None: its page cannot be had."""
        if level > self.top:
            return None
        if index * FANOUT**level >= FANOUT**self.top:
            return ZERO_DIGEST
        name = self._root
        for upper in range(self.top, level, -1):
            if name == ZERO_DIGEST:
                return name
            page = self._page(name)
            if page is None:
                return None
            slot = index // FANOUT ** (upper - 1 - level) % FANOUT
            name = page[slot * DIGEST_BYTES : (slot + 1) * DIGEST_BYTES]
        return name

    def leaves(self, first: int, count: int) -> list[bytes | None]:
        """Return the digests of `count` blocks from `first` on."""
        found: list[bytes | None] = []
        while len(found) < count:
            index, slot = divmod(first + len(found), FANOUT)
            here = min(FANOUT - slot, count - len(found))
            name = self.node(1, index)
            page = name if name is None or name == ZERO_DIGEST else self._page(name)
            if page is None:
                found += [None] * here
            elif page == ZERO_DIGEST:
                found += [ZERO_DIGEST] * here
            else:
                at = range(slot * DIGEST_BYTES, (slot + here) * DIGEST_BYTES, DIGEST_BYTES)
                found += [page[i : i + DIGEST_BYTES] for i in at]
        return found

    def subtrees(self, first: int, count: int, size_bytes: int, top: int) -> Iterator[tuple[int, bytes | None]]:
        """Cut unchanged blocks of a disk of `size_bytes` (map height `top`) into the largest whole nodes.

        Yields (level, digest) in order. The last page of a disk counts as whole where the size is the same.
        """
        to_end = size_bytes == self.size_bytes and first + count == self._blocks
        while count > 0:
            level = 0
            while level + 1 < min(top, self.top + 1):
                span = FANOUT ** (level + 1)
                if first % span or (count < span and not to_end):
                    break
                level += 1
            yield level, self.node(level, first // FANOUT**level)
            first, count = first + FANOUT**level, count - FANOUT**level

    def known(self, run: Run, comparable_blocks: int) -> Iterator[Run]:
        """Cut an unchanged run into what can be taken over, and what must be read although it did not change.

        That is what is not comparable, and where damage was found, damaged blocks and all below damaged pages.
        """
        usable = max(0, min(run.count, comparable_blocks - run.first))
        if not self._damaged:
            yield from _nonempty(run.first, usable, "unchanged")
        else:
            first = run.first
            while first < run.first + usable:
                count = min(FANOUT - first % FANOUT, run.first + usable - first)
                for offset, name in enumerate(self.leaves(first, count)):
                    sound = name is not None and name not in self._damaged
                    yield Run(first + offset, 1, "unchanged" if sound else "data")
                first += count
        yield from _nonempty(run.first + usable, run.count - usable, "data")

    def _page(self, name: bytes) -> bytes | None:
        if name in self._damaged:
            return None
        with self._lock:
            if name in self._pages:
                self._pages[name] = page = self._pages.pop(name)  # the newest is last
                return page
            page = self._fetch(name)
            if page is not None and len(page) != PAGE_BYTES:
                page = None
            self._pages[name] = page
            if len(self._pages) > _MAX_PAGES:
                del self._pages[next(iter(self._pages))]
            return page


def _nonempty(first: int, count: int, state: State) -> Iterator[Run]:
    if count:
        yield Run(first, count, state)
