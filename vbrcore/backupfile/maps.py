"""Maps: which block stands at a position of a disk. A tree of 8 KiB pages of 256 digests each.

Leaf `i` is the digest of the block at `i * block_size`; the last block of a disk is as long as the disk is (not
padded). A level-1 page holds the digests of 256 blocks, a level-2 page those of 256 level-1 pages, and so on. The
height follows from the number of blocks; there is always at least one level. A zero digest (32 zero bytes) stands for
a range without data, at any height, so a page of zeros only is never stored. Pure functions; no I/O.
"""

from collections.abc import Callable, Iterator
from typing import Final

from vbrcore.backupfile.codec import DIGEST_BYTES, ZERO_DIGEST, digest
from vbrcore.model.errors import FormatInvalid

FANOUT: Final = 256
PAGE_BYTES: Final = FANOUT * DIGEST_BYTES
MAX_DISK_BYTES: Final = 1 << 62
ZERO_PAGE: Final = bytes(PAGE_BYTES)
_BEYOND: Final = "a map page names blocks beyond the end of its disk"

FetchPage = Callable[[bytes], bytes]
Page = tuple[bytes, bytes]  # digest, 8 KiB of content


def block_count(size_bytes: int, block_size_bytes: int) -> int:
    """Return how many blocks a disk has; the last one may be short."""
    return -(-size_bytes // block_size_bytes)


def height(size_bytes: int, block_size_bytes: int) -> int:
    """Return the number of page levels of a disk's map: the smallest h >= 1 with 256**h >= blocks.

    Raises `FormatInvalid` for a size that no disk has.
    """
    if not 0 <= size_bytes <= MAX_DISK_BYTES or block_size_bytes <= 0:
        raise FormatInvalid(f"a disk of {size_bytes} bytes in blocks of {block_size_bytes} cannot be")
    levels, covered, blocks = 1, FANOUT, block_count(size_bytes, block_size_bytes)
    while covered < blocks:
        levels, covered = levels + 1, covered * FANOUT
    return levels


def split(page: bytes) -> list[bytes]:
    """Return the 256 digests of a page. Raises `FormatInvalid` when it has not exactly 8 KiB."""
    if len(page) != PAGE_BYTES:
        raise FormatInvalid(f"a map page has {len(page)} bytes instead of {PAGE_BYTES}")
    return [page[i : i + DIGEST_BYTES] for i in range(0, PAGE_BYTES, DIGEST_BYTES)]


class PageBuilder:
    """Builds a map bottom-up from leaf digests fed in order; keeps one open page per level."""

    def __init__(self, size_bytes: int, block_size_bytes: int) -> None:
        self._height = height(size_bytes, block_size_bytes)
        self._blocks = block_count(size_bytes, block_size_bytes)
        self._open = [bytearray() for _ in range(self._height)]
        self._fed = 0
        self._root: bytes | None = None

    @property
    def position(self) -> int:
        """How many leaves were fed: the index of the next one."""
        return self._fed

    def add(self, leaf: bytes) -> list[Page]:
        """Feed the next leaf's digest; return the pages that this finished, lower levels first."""
        return self._add(leaf, 0)

    def add_subtree(self, subtree: bytes, level: int) -> list[Page]:
        """Feed a whole page of `level` >= 1 by its digest (zero: a hole); it covers 256**level leaves.

        The position must be a multiple of that; raises `ValueError` otherwise.
        """
        if level >= self._height or self._fed % FANOUT**level:
            raise ValueError(f"no subtree of level {level} can start at leaf {self._fed}")
        return self._add(subtree, level)

    def add_holes(self, count: int) -> list[Page]:
        """Feed `count` leaves without data, in steps as large as alignment allows."""
        pages: list[Page] = []
        while count > 0:
            level = 0
            while (
                level + 1 < self._height and self._fed % FANOUT ** (level + 1) == 0 and FANOUT ** (level + 1) <= count
            ):
                level += 1
            pages += self._add(ZERO_DIGEST, level)
            count -= FANOUT**level
        return pages

    def finish(self) -> tuple[list[Page], bytes]:
        """Return (the remaining pages, lower levels first, and the root's digest). What was not fed is a hole."""
        pages: list[Page] = []
        for level in range(self._height - 1):
            if self._open[level]:
                name = self._close(level, pages)
                pages += self._push(name, level + 1)
        if self._root is None:
            self._root = self._close(self._height - 1, pages)
        return pages, self._root

    def _add(self, name: bytes, level: int) -> list[Page]:
        if len(name) != DIGEST_BYTES:
            raise ValueError(f"a digest has {DIGEST_BYTES} bytes, not {len(name)}")
        # A subtree may reach beyond the last block, as its page does.
        if self._fed >= self._blocks:
            raise ValueError(f"the disk has no block {self._fed}")
        self._fed += FANOUT**level
        return self._push(name, level)

    def _push(self, name: bytes, level: int) -> list[Page]:
        pages: list[Page] = []
        while True:
            page = self._open[level]
            page += name
            if len(page) < PAGE_BYTES:
                return pages
            name = self._close(level, pages)
            if level + 1 == self._height:
                self._root = name
                return pages
            level += 1

    def _close(self, level: int, pages: list[Page]) -> bytes:
        """Empty the open page of `level`, add it to `pages` unless it is all holes, and return its digest."""
        content = bytes(self._open[level].ljust(PAGE_BYTES, b"\0"))
        self._open[level].clear()
        if content == ZERO_PAGE:
            return ZERO_DIGEST
        name = digest(content)
        pages.append((name, content))
        return name


def leaves(root: bytes, size_bytes: int, block_size_bytes: int, fetch: FetchPage) -> Iterator[tuple[int, bytes]]:
    """Yield (block index, digest) of every block of a disk that has data, in order. Holds one page per level.

    `fetch` returns a page by digest, verified. Raises `FormatInvalid` when a page names blocks beyond the disk.
    """
    for level, index, name in walk(root, size_bytes, block_size_bytes, fetch):
        if level == 0:
            yield index, name


def walk(
    root: bytes,
    size_bytes: int,
    block_size_bytes: int,
    fetch: FetchPage,
    skip: Callable[[int, int, bytes], bool] | None = None,
) -> Iterator[tuple[int, int, bytes]]:
    """Yield (level, index, digest) of all pages (level >= 1) and leaves (level 0) in order, parents first.

    `index` counts nodes of that level from the disk's start. A node for which `skip(level, index, digest)` is true is
    neither yielded nor entered. A page is fetched after it was yielded. Raises `FormatInvalid`.
    """
    top = height(size_bytes, block_size_bytes)
    blocks = block_count(size_bytes, block_size_bytes)
    if len(root) != DIGEST_BYTES:
        raise FormatInvalid(f"a map's root has {len(root)} bytes instead of {DIGEST_BYTES}")
    stack: list[Iterator[tuple[int, bytes]]] = [iter([(0, root)])]
    while stack:
        level = top - len(stack) + 1
        step = next(stack[-1], None)
        if step is None:
            stack.pop()
            continue
        index, name = step
        if name == ZERO_DIGEST:
            continue
        if index * FANOUT**level >= blocks:
            raise FormatInvalid(_BEYOND)
        if skip is not None and skip(level, index, name):
            continue
        yield level, index, name
        if level:
            stack.append(iter(list(enumerate(split(fetch(name)), index * FANOUT))))


def pages(
    root: bytes,
    size_bytes: int,
    block_size_bytes: int,
    fetch: FetchPage,
    skip: Callable[[int, int, bytes], bool] | None = None,
) -> Iterator[tuple[bytes, bytes]]:
    """Yield (digest, content) of all pages in order, parents first: a walk that does not look at leaves one by one.

    A page for which `skip(level, index, digest)` is true is neither yielded nor entered. Raises `FormatInvalid`.
    """
    blocks = block_count(size_bytes, block_size_bytes)
    if len(root) != DIGEST_BYTES:
        raise FormatInvalid(f"a map's root has {len(root)} bytes instead of {DIGEST_BYTES}")
    stack = [(height(size_bytes, block_size_bytes), 0, root)]
    while stack:
        level, index, name = stack.pop()
        if name == ZERO_DIGEST:
            continue
        left = blocks - index * FANOUT**level  # from where the page begins
        if left <= 0:
            raise FormatInvalid(_BEYOND)
        if skip is not None and skip(level, index, name):
            continue
        content = fetch(name)
        if level > 1:
            below = list(enumerate(split(content), index * FANOUT))
            stack += [(level - 1, place, child) for place, child in reversed(below)]
        elif len(content) != PAGE_BYTES:
            raise FormatInvalid(f"a map page has {len(content)} bytes instead of {PAGE_BYTES}")
        elif content[left * DIGEST_BYTES :].strip(b"\0"):
            raise FormatInvalid(_BEYOND)
        yield name, content


class MapCursor:
    """Looks nodes of one map up by place; cheap when asked in order, for it keeps the last page of each level."""

    def __init__(self, root: bytes, size_bytes: int, block_size_bytes: int, fetch: FetchPage) -> None:
        if len(root) != DIGEST_BYTES:
            raise FormatInvalid(f"a map's root has {len(root)} bytes instead of {DIGEST_BYTES}")
        self._root = root
        self._height = height(size_bytes, block_size_bytes)
        self._fetch = fetch
        self._pages: dict[int, tuple[int, list[bytes]]] = {}

    def node(self, level: int, index: int) -> bytes:
        """Return the digest at (`level`, `index`): 0 is a block. Zero for holes and for all beyond the map."""
        if level > self._height or index >= FANOUT ** (self._height - level):
            return ZERO_DIGEST
        if level == self._height:
            return self._root
        parent_index, place = divmod(index, FANOUT)
        held = self._pages.get(level + 1)
        if held is None or held[0] != parent_index:
            parent = self.node(level + 1, parent_index)
            page = ZERO_PAGE if parent == ZERO_DIGEST else self._fetch(parent)
            held = self._pages[level + 1] = parent_index, split(page)
        return held[1][place]
