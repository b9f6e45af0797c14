"""Each pair of operations on one chain at once, in two processes: the table of `vbrcore.chain`, as it runs."""

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chain import pairs
from vbrcore.storage.local import LocalStorage
from vbrcore.testing import chain_kit as kit

PAIRS = list(itertools.combinations_with_replacement(sorted(pairs.OPERATIONS), 2))


def start(root: Path, index: Path, operation: str, number: int) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-m", "tests.chain.pairs", str(root), str(index), operation, str(number)]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_two_at_once_end_well_and_lose_nothing(tmp_path: Path, one: str, other: str) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    storage = LocalStorage(root)
    numbers: dict[str, int] = {}
    for number in range(5):
        writer = kit.open_writer(storage, tmp_path / "index")
        numbers[kit.send_point(writer, pairs.image(number), pairs.SIZE).point_id] = number
        writer.seal()
    children = [start(root, tmp_path / "index", name, 100 * place) for place, name in enumerate((one, other), 1)]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    done: list[dict[str, Any]] = []
    for child in children:  # both wait for this line
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        out, err = child.communicate(timeout=240)
        assert child.returncode == 0, err
        done += [json.loads(line) for line in out.splitlines()]
    numbers |= {entry["committed"]: entry["number"] for entry in done if "committed" in entry}
    for entry in done:
        if "restored" in entry:
            assert entry["digest"] == pairs.digest_of(pairs.image(numbers[entry["restored"]]))
        if "copied" in entry:
            assert kit.restore(storage, entry["copied"], directory=pairs.COPY) == {
                "d0": pairs.image(numbers[entry["of"]])
            }
    _check(storage, tmp_path / "index", numbers, {entry["forgetting"] for entry in done if "forgetting" in entry})


def _check(storage: LocalStorage, index: Path, numbers: dict[str, int], forgotten: set[str]) -> None:
    """Every point that was committed and not forgotten restores, and a following session finds nothing wrong."""
    writer = kit.open_writer(storage, index)
    assert writer.warnings == ()
    assert writer.damaged == frozenset()
    there = {point.point_id for point in writer.points}
    assert numbers.keys() - forgotten <= there  # a point that was pinned stays although it was to go
    last = kit.send_point(writer, pairs.image(7), pairs.SIZE)
    writer.seal()
    for point_id in there:
        assert kit.restore(storage, point_id) == {"d0": pairs.image(numbers[point_id])}
    assert kit.restore(storage, last.point_id) == {"d0": pairs.image(7)}
    left = [name for name in storage.list("") if not name.endswith((".vbf", ".lock"))]
    assert left == []
