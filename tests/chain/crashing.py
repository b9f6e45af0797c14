"""Looking at what a crash has left, and going on from there."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.chain.crash_works import KEY, KEY_FILES, MARKS, History
from tests.chain.invariants import check_index, check_tidy
from vbrcore.chain import eviction, transplant
from vbrcore.chain.files import ENDING, read_files
from vbrcore.chain.listing import delete_chain_files, read_points
from vbrcore.model.errors import WrongPassphrase
from vbrcore.secrets.keyslots import open_slots
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage
from vbrcore.testing.recording_storage import Operation

MOST_POINTLESS = 1
LEAK_BYTES = 8192


def make_everything_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few files and rows do what thousands do."""
    monkeypatch.setattr(eviction, "MOST_POINTLESS_FILES", MOST_POINTLESS)
    monkeypatch.setattr(eviction, "LEAK_BYTES", LEAK_BYTES)
    monkeypatch.setattr(transplant, "STEP_ROWS", 4)


def fingerprint(storage: MemoryStorage, trace: Sequence[Operation]) -> int:
    """States with the same one need to be looked at once: same files, same acknowledgements."""
    marks = sum(operation[0] in MARKS for operation in trace)
    return hash((tuple((name, bytes(content)) for name, content in storage.files.items()), marks))


def check(storage: MemoryStorage, history: History, trace: Sequence[Operation]) -> None:
    """Each acknowledged point that is not being forgotten restores, and whatever else is visible as well."""
    marks = {(operation[0], operation[1]) for operation in trace}
    visible = {point.point_id for point in read_points(storage, kit.DIRECTORY)}
    for point_id in history.images:
        if ("forgotten", point_id) in marks:
            assert point_id not in visible
        elif ("acknowledged", point_id) in marks and ("forgetting", point_id) not in marks:
            assert point_id in visible
    # While a whole chain is being deleted, a point may be seen whose files are gone.
    if ("deleting", "") in marks or not visible:
        return
    chain_key = None
    if history.encrypted:
        check_keys(storage, marks)
        chain_key = KEY
    images = kit.restore_all(storage, visible, chain_key)
    assert images == {point_id: {"d0": history.images[point_id]} for point_id in visible}


def check_keys(storage: MemoryStorage, marks: set[tuple[object, object]]) -> None:
    """Every file opens: with the key file from before until the change is acknowledged, or with the new one."""
    for file in read_files(storage, kit.DIRECTORY).files:
        opened = set()
        for number, key_file in enumerate(KEY_FILES):
            try:
                assert open_slots(file.contents.key_slots, file.slot.chain_id, keyfile=key_file) == KEY
            except WrongPassphrase:
                continue
            opened.add(number)
        assert len(opened) == 1
        if ("key changing", "") not in marks:
            assert opened == {0}
        if ("key changed", "") in marks:
            assert opened == {1}


def go_on(storage: MemoryStorage, history: History, index: Path, trace: Sequence[Operation]) -> None:
    """Two sessions with eviction: they are told of no damage, all restores, and no space is lost."""
    if history.deletes and len(trace) % 2:
        delete_chain_files(storage, kit.DIRECTORY)
        assert not [name for name in storage.list("") if name.endswith(ENDING)]
        return
    later = history.after_crash(storage, index, trace)
    session(later, forgets=False)
    check(storage, later, later.trace)
    session(later, forgets=True)
    check(storage, later, later.trace)
    if not history.deletes:
        check_tidy(storage, slack_bytes=LEAK_BYTES, most_pointless=MOST_POINTLESS)
        check_index(storage, index)


def session(history: History, *, forgets: bool) -> None:
    """What the next session does: a backup, forgetting the oldest point, giving back."""
    writer = history.open()
    if not history.deletes:
        assert writer.warnings == ()
        assert writer.damaged == frozenset()
    history.backup(writer)
    if forgets:
        history.forget(writer, [writer.points[0].point_id])
    done = writer.give_back(history.storage_class, force=True)
    assert done is not None
    if not history.deletes:
        assert done.warnings == []
    writer.seal()


def index_after(index: Path, number: int, wanted: Path) -> Path:
    """Return the index that the next session finds: of a later state of the chain, or none."""
    if number % 2 and index.exists():
        shutil.copytree(index, wanted)
    return wanted
