"""A crash while the session after a crash puts things right: what is kept restores, and the next session succeeds.

Each VBRCORE_CRASH_TWICE-th state after a first crash is gone on from (short form: 310), and each 53rd of those that a
second crash leaves then.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.chain.crash_works import History, Work, backing_up, evicting, evicting_encrypted, synthetic
from tests.chain.crashing import check, fingerprint, go_on, index_after, make_everything_small, session
from tests.chain.invariants import check_order
from vbrcore.storage.capabilities import STORAGE_CLASSES, StorageClass
from vbrcore.testing.recording_storage import Disk, Operation, RecordingStorage, crash_states

EVERY = int(os.environ.get("VBRCORE_CRASH_TWICE", "310"))
FOLLOWED = 53
LEAST_STATES = 500


@pytest.fixture(scope="module")
def counted() -> Iterator[dict[str, int]]:
    found = {"works": 0, "first": 0, "second": 0, "followed": 0}
    yield found
    print(f"\nstates after a second crash: {found}")  # noqa: T201


@pytest.mark.parametrize("storage_class", STORAGE_CLASSES)
@pytest.mark.parametrize("work", [backing_up, evicting, evicting_encrypted, synthetic])
def test_a_crash_while_a_crash_is_recovered_from(
    work: Work, storage_class: StorageClass, counted: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_everything_small(monkeypatch)
    history = History(RecordingStorage(storage_class=storage_class), tmp_path / "index")
    work(history)
    trace = list(history.trace)
    states = crash_states(trace, 1, storage_class=storage_class, seed=1)
    for number, (length, name, left) in enumerate(states):
        if number % EVERY != EVERY // 2:
            continue
        counted["first"] += 1
        begin = {name: bytes(content) for name, content in left.files.items()}
        again = RecordingStorage(storage_class=storage_class, begin=begin)
        later = history.after_crash(again, index_after(tmp_path / "index", number, tmp_path / "next"), trace[:length])
        marks = list(later.trace)
        session(later, forgets=True)
        second = later.trace[len(marks) :]
        try:
            check_order(second, Disk(storage_class, begin=begin))
            twice(second, marks, later, counted, tmp_path / "next")
        except BaseException as error:
            error.add_note(f"first crash: after {length} of {len(trace)} operations, {name}")
            raise
        shutil.rmtree(tmp_path / "next")
    counted["works"] += 1


def twice(
    trace: Sequence[Operation], before: Sequence[Operation], history: History, counted: dict[str, int], index: Path
) -> None:
    """`before`: the marks up to the first crash."""
    assert isinstance(history.storage, RecordingStorage)
    states = crash_states(trace, 1, storage_class=history.storage_class, begin=history.storage.begin, seed=2)
    seen: set[int] = set()
    for length, name, storage in states:
        counted["second"] += 1
        marks = [*before, *trace[:length]]
        content = fingerprint(storage, marks)
        if content in seen:
            continue
        seen.add(content)
        try:
            check(storage, history, marks)
            if len(seen) % FOLLOWED == 0:
                counted["followed"] += 1
                last = index_after(index, counted["followed"], index.with_name("last"))
                go_on(storage, history, last, marks)
                shutil.rmtree(last, ignore_errors=True)
        except BaseException as error:
            error.add_note(f"second crash: after {length} of {len(trace)} operations, {name}")
            raise


def test_so_many_states_were_looked_at(counted: dict[str, int]) -> None:
    whole = counted["works"] >= 4 * len(STORAGE_CLASSES)  # else only some were chosen on the command line
    assert counted["second"] >= (LEAST_STATES if whole else counted["works"])
