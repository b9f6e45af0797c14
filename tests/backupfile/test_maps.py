"""Map arithmetic against a list of digests."""

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vbrcore.backupfile.codec import ZERO_DIGEST, digest
from vbrcore.backupfile.maps import FANOUT, PAGE_BYTES, MapCursor, PageBuilder, height, leaves, split, walk
from vbrcore.backupfile.maps import pages as walk_pages
from vbrcore.model.errors import FormatInvalid

BLOCK = 4096


def build(blocks: int, image: dict[int, bytes]) -> tuple[bytes, dict[bytes, bytes]]:
    builder = PageBuilder(blocks * BLOCK, BLOCK)
    pages: dict[bytes, bytes] = {}
    for index in sorted(image):
        pages.update(builder.add_holes(index - builder.position))
        pages.update(builder.add(image[index]))
    rest, root = builder.finish()
    pages.update(rest)
    return root, pages


@st.composite
def images(draw: st.DrawFn) -> tuple[int, dict[int, bytes]]:
    blocks = draw(st.sampled_from([1, 2, 255, 256, 257, 65_535, 65_536, 65_537, 70_000, 20_000_000]))
    places = draw(st.sets(st.integers(0, blocks - 1) | st.integers(max(0, blocks - 3), blocks - 1), max_size=20))
    return blocks, {place: digest(str(place).encode()) for place in places}


@settings(max_examples=60, deadline=None)
@given(images())
def test_what_was_fed_comes_out(case: tuple[int, dict[int, bytes]]) -> None:
    blocks, image = case
    root, pages = build(blocks, image)
    assert dict(leaves(root, blocks * BLOCK, BLOCK, pages.__getitem__)) == image
    assert all(len(page) == PAGE_BYTES and any(page) and digest(page) == name for name, page in pages.items())
    assert (root == ZERO_DIGEST) == (not image)
    cursor = MapCursor(root, blocks * BLOCK, BLOCK, pages.__getitem__)
    for level, index, name in walk(root, blocks * BLOCK, BLOCK, pages.__getitem__):
        assert cursor.node(level, index) == name
    assert cursor.node(0, blocks + FANOUT**4) == ZERO_DIGEST
    inner = [name for level, _, name in walk(root, blocks * BLOCK, BLOCK, pages.__getitem__) if level]
    assert list(walk_pages(root, blocks * BLOCK, BLOCK, pages.__getitem__)) == [(name, pages[name]) for name in inner]
    skipped = walk_pages(root, blocks * BLOCK, BLOCK, pages.__getitem__, lambda *node: node[2] in inner[1:])
    assert [name for name, _ in skipped] == inner[:1]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3 * 65_536), st.sets(st.integers(0, 3 * 65_536 - 1), max_size=6))
def test_subtrees_may_be_taken_over_whole(blocks: int, places: set[int]) -> None:
    image = {place: digest(b"%d" % place) for place in places if place < blocks}
    root, pages = build(blocks, image)
    size_bytes = blocks * BLOCK
    cursor = MapCursor(root, size_bytes, BLOCK, pages.__getitem__)
    builder = PageBuilder(size_bytes, BLOCK)
    made = []
    for index in range(-(-blocks // FANOUT)):
        if height(size_bytes, BLOCK) > 1:
            made += builder.add_subtree(cursor.node(1, index), 1)
        else:
            for leaf in split(pages.get(root, bytes(PAGE_BYTES)))[:blocks]:
                made += builder.add(leaf)
    rest, again = builder.finish()
    assert again == root
    assert {name for name, _ in [*made, *rest]} <= pages.keys()


def test_heights() -> None:
    assert [height(blocks * BLOCK, BLOCK) for blocks in (0, 1, 256, 257, 65_536, 65_537)] == [1, 1, 1, 2, 2, 3]
    assert height(BLOCK * 256 + 1, BLOCK) == 2
    for size_bytes in (-1, 1 << 63):
        with pytest.raises(FormatInvalid):
            height(size_bytes, BLOCK)


def test_wrong_feeding_is_refused() -> None:
    builder = PageBuilder(BLOCK, BLOCK)
    with pytest.raises(ValueError, match="32 bytes"):
        builder.add(b"short")
    builder.add(digest(b"x"))
    with pytest.raises(ValueError, match="no block"):
        builder.add(digest(b"y"))
    builder = PageBuilder(1000 * BLOCK, BLOCK)
    builder.add(digest(b"x"))
    with pytest.raises(ValueError, match="no subtree"):
        builder.add_subtree(digest(b"y"), 1)


@pytest.mark.parametrize("look", [leaves, walk_pages])
def test_pages_from_outside_are_checked(look: Callable[..., Iterator[object]]) -> None:
    name = digest(b"x")
    for blocks in (1, 300):
        with pytest.raises(FormatInvalid, match="bytes"):
            list(look(name, blocks * BLOCK, BLOCK, lambda _: b"short"))
        with pytest.raises(FormatInvalid, match="beyond"):
            list(look(name, blocks * BLOCK, BLOCK, lambda _: name * FANOUT))
    with pytest.raises(FormatInvalid, match="beyond"):
        list(look(name, 0, BLOCK, lambda _: name * FANOUT))
    with pytest.raises(FormatInvalid, match="root"):
        list(look(b"", BLOCK, BLOCK, lambda _: name * FANOUT))
