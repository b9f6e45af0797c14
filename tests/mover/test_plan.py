"""Extents of bytes become runs of blocks and batches: against a block-by-block oracle."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbrcore.model.errors import SourceReadFailed
from vbrcore.mover.plan import batches, block_runs, joined
from vbrcore.plugins.mover import Extent

BLOCK = 8
STATES = st.sampled_from(["data", "zero", "unchanged"])
LAYOUTS = st.lists(st.tuples(st.integers(1, 3 * BLOCK), STATES), max_size=30)


def extents_of(layout: list[tuple[int, str]]) -> tuple[list[Extent], str]:
    """Return the extents, and the state of each byte as a letter."""
    extents, states = [], ""
    for length, state in layout:
        extents.append(Extent(len(states), length, state))  # type: ignore[arg-type]
        states += state[0] * length
    return extents, states


@given(LAYOUTS)
def test_runs_say_of_each_block_what_its_bytes_say(layout: list[tuple[int, str]]) -> None:
    extents, states = extents_of(layout)
    found = ""
    for run in joined(block_runs(extents, len(states), BLOCK)):
        assert run.first == len(found)
        found += run.state[0] * run.count
    expected = ""
    for start in range(0, len(states), BLOCK):
        kinds = set(states[start : start + BLOCK])
        expected += kinds.pop() if len(kinds) == 1 else "d"
    assert found == expected


@given(LAYOUTS, st.integers(1, 5))
def test_batches_are_bounded_and_lose_nothing(layout: list[tuple[int, str]], max_blocks: int) -> None:
    extents, states = extents_of(layout)
    runs = list(joined(block_runs(extents, len(states), BLOCK)))
    made = list(batches(runs, max_blocks))
    assert [batch.number for batch in made] == list(range(len(made)))
    assert all(len(batch.positions()) <= max_blocks for batch in made)
    assert list(joined(run for batch in made for run in batch.runs)) == runs


@pytest.mark.parametrize(
    "extents",
    [
        [],
        [Extent(1, 9, "data")],
        [Extent(0, 9, "data")],
        [Extent(0, 11, "data")],
        [Extent(0, 5, "data"), Extent(6, 4, "zero")],
        [Extent(0, 5, "data"), Extent(5, 0, "zero"), Extent(5, 5, "data")],
    ],
)
def test_extents_that_do_not_cover_the_disk_are_refused(extents: list[Extent]) -> None:
    with pytest.raises(SourceReadFailed):
        list(block_runs(extents, 10, BLOCK))
