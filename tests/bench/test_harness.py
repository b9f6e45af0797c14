"""The arithmetic behind the figures."""

import pytest

from bench.contestants import Phase, Sample, Setting
from bench.harness import Spread, paired_ratio, parse_size, rotated, span, spread, table
from bench.process import Usage
from bench.report import aims, summarise


def test_a_spread_has_median_and_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert span(spread([3.0, 1.0, 2.0])) == "2.0 (1.0..3.0)"
    assert span(spread([1.0])) == "1.0"
    assert span(None) == "-"


def test_ratios_are_taken_within_a_round() -> None:
    # Everything took twice as long in round 1: the ratio does not.
    assert paired_ratio({0: 3.0, 1: 6.0}, {0: 1.0, 1: 2.0}) == Spread(3.0, 3.0, 3.0)
    assert paired_ratio({0: 3.0}, {1: 1.0}) is None


def test_every_contestant_begins_a_round_once() -> None:
    assert [rotated("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert rotated("abc", 1) == ["b", "c", "a"]
    assert rotated([], 5) == []


@pytest.mark.parametrize(("text", "size_bytes"), [("4G", 4 << 30), ("512m", 512 << 20), ("1.5G", 3 << 29), ("42", 42)])
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize("text", ["", "G", "x", "0", "-1G"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of float() or our own
        parse_size(text)


def test_a_table_is_aligned() -> None:
    assert table(("a", "bb"), [("ccc", "d")]) == "a    bb\nccc   d"


def sample(contestant: str, setting: Setting, phase: Phase, wall_s: float, stored_bytes: int = 0) -> Sample:
    return Sample(contestant, setting, 0, phase, Usage(wall_s, wall_s, 1.0, 0), stored_bytes)


def test_aims_compare_with_the_right_line() -> None:
    samples = [
        sample("vbrcore", "default", "full", 2.0, 100),
        sample("borg", "default", "full", 5.0, 120),
        sample("borg", "nearest", "full", 4.0, 110),
        sample("restic", "nearest", "full", 9.0, 90),
        sample("limit", "limit", "full", 1.8),
        sample("vbrcore", "default", "restore", 2.0),
        sample("borg", "nearest", "restore", 3.0),
    ]
    found = {aim.aim: (aim.reached.median if aim.reached else None, aim.met) for aim in aims(summarise(samples))}
    assert found["full / fastest peer at the nearest setting: borg"] == (2.0, True)
    assert found["full / fastest peer at its default: borg"] == (2.5, True)
    assert found["full: stored bytes of that peer / ours: borg"] == (1.1, True)
    assert found["full / limit (zstd of the unique blocks)"] == (0.9, True)
    assert found["restore / fastest peer: borg"] == (1.5, False)
    assert found["restore / limit (decompress + write)"] == (None, None)
