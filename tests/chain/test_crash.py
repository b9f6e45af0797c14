"""Whatever a crash leaves of any work on a chain: what is kept restores, and the next session succeeds and tidies up.

VBRCORE_CRASH_RANDOM says how many random states are looked at after each operation (short form: 2), and
VBRCORE_CRASH_FOLLOW of how many states one is gone on from (short form: 23). script/crash-states is the long run.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chain.crash_works import WORKS, History, Work
from tests.chain.crashing import check, fingerprint, go_on, index_after, make_everything_small
from tests.chain.invariants import check_order
from vbrcore.storage.capabilities import STORAGE_CLASSES, StorageClass
from vbrcore.testing.recording_storage import Disk, RecordingStorage, crash_states

RANDOM_STATES = int(os.environ.get("VBRCORE_CRASH_RANDOM", "2"))
FOLLOWED = int(os.environ.get("VBRCORE_CRASH_FOLLOW", "23"))
LEAST_STATES = 10_000


class Counter:
    """What was looked at in this module: all states, those that differ from the ones before, those gone on from."""

    def __init__(self) -> None:
        self.works = self.states = self.different = self.followed = 0

    def __str__(self) -> str:
        return f"{self.states} crash states, {self.different} different, {self.followed} gone on from"


@pytest.fixture(scope="module")
def counter() -> Iterator[Counter]:
    found = Counter()
    yield found
    print(f"\n{found}")  # noqa: T201


@pytest.mark.parametrize("storage_class", STORAGE_CLASSES)
@pytest.mark.parametrize("work", WORKS)
def test_every_prefix(
    work: Work, storage_class: StorageClass, counter: Counter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_everything_small(monkeypatch)
    history = History(RecordingStorage(storage_class=storage_class), tmp_path / "index")
    work(history)
    trace = list(history.trace)
    assert check_order(trace, Disk(storage_class)) > 0
    seen: set[int] = set()
    for length, name, storage in crash_states(trace, RANDOM_STATES, storage_class=storage_class):
        counter.states += 1
        marks = trace[:length]
        content = fingerprint(storage, marks)
        if content in seen:  # nothing that was not looked at
            continue
        seen.add(content)
        counter.different += 1
        try:
            check(storage, history, marks)
            if len(seen) % FOLLOWED == 0:
                counter.followed += 1
                index = index_after(tmp_path / "index", counter.followed, tmp_path / "next")
                go_on(storage, history, index, marks)
                shutil.rmtree(index, ignore_errors=True)
        except BaseException as error:
            error.add_note(
                f"after {length} of {len(trace)} operations, {name}: {trace[max(0, length - 3) : length]!r:.600}"
            )
            raise
    counter.works += 1


def test_so_many_states_were_looked_at(counter: Counter, record_property: Callable[[str, object], None]) -> None:
    record_property("crash states", str(counter))
    whole = counter.works >= len(WORKS) * len(STORAGE_CLASSES)  # else only some were chosen on the command line
    assert counter.states >= (LEAST_STATES if whole else counter.works)
