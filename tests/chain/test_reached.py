"""What the mark keeps of digests, and which files are merged: pure functions, no chain."""

import random

import pytest

from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.chain.eviction import oldest_small
from vbrcore.chain.mark import Reached


@pytest.mark.parametrize("rows", [0, 1, 5000, 100_000])
def test_what_was_added_is_reached_and_little_else(rows: int) -> None:
    chance = random.Random(rows)  # noqa: S311
    reached = Reached(rows)
    names = [chance.randbytes(DIGEST_BYTES) for _ in range(rows)]
    for name in names[: rows // 2]:
        reached.add(name)
    reached.add_all(b"".join(names[rows // 2 :]))
    assert all(name in reached for name in names)
    strangers = sum(chance.randbytes(DIGEST_BYTES) in reached for _ in range(20_000))
    assert strangers < 20_000 * 0.02


def test_which_bits_a_digest_has_differs_from_time_to_time() -> None:
    chance = random.Random(1)  # noqa: S311
    added = [chance.randbytes(DIGEST_BYTES) for _ in range(4000)]
    others = [chance.randbytes(DIGEST_BYTES) for _ in range(4000)]
    taken_for_reached = []
    for _ in range(12):
        reached = Reached(100)
        reached.add_all(b"".join(added))
        taken_for_reached.append({name for name in others if name in reached})
    assert all(taken_for_reached)
    assert not set.intersection(*taken_for_reached)


def test_old_files_are_merged_and_what_was_merged_before_is_not() -> None:
    sizes = [(float(day), 50 + day) for day in range(60)]
    merged = [(-1.0, 900), (25.5, 700)]
    chosen = oldest_small([*sizes, *merged])
    assert chosen == list(range(16))


def test_some_are_always_merged() -> None:
    assert sorted(oldest_small([(2.0, 5), (1.0, 900)])) == [0, 1]
    assert sorted(oldest_small([(3.0, 1 << 40), (2.0, 5), (1.0, 9)])) == [1, 2]
    assert len(oldest_small([(1.0, 7)] * 65)) == 16
