"""Random histories of a chain against a dict of images: every kept point restores."""

import os
import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from vbrcore.chain import eviction
from vbrcore.chain.listing import read_points
from vbrcore.chain.writer import ChainWriter
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

SIZE = kit.size_of(300)
EXAMPLES = int(os.environ.get("VBRCORE_HISTORIES", "20"))
MACHINES = ["m1", "m2"]


class Histories(RuleBasedStateMachine):
    storage_class: StorageClass = "clone"

    @initialize(alignment=st.sampled_from([4096, 16384]))
    def begin(self, alignment: int) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.storage = MemoryStorage(storage_class=self.storage_class, alignment_bytes=alignment)
        self.kept: dict[str, dict[int, bytes]] = {}
        self.images: dict[str, dict[int, bytes]] = {machine: {0: kit.content(0)} for machine in MACHINES}
        self.writer: ChainWriter | None = None

    def teardown(self) -> None:
        if hasattr(self, "home"):
            if self.writer is not None:
                self.writer.close()
            shutil.rmtree(self.home)

    def opened(self) -> ChainWriter:
        if self.writer is None:
            self.writer = kit.open_writer(self.storage, self.home / "index")
        return self.writer

    @rule(
        machine=st.sampled_from(MACHINES),
        changes=st.dictionaries(st.integers(0, 299), st.integers(0, 12), max_size=4),
        holes=st.sets(st.integers(0, 299), max_size=2),
    )
    def backup(self, machine: str, changes: dict[int, int], holes: set[int]) -> None:
        image = self.images[machine] | {index: kit.content(seed) for index, seed in changes.items()}
        image = {index: data for index, data in image.items() if index not in holes}
        self.images[machine] = image
        point = kit.send_point(self.opened(), image, SIZE, machine)
        self.kept[point.point_id] = image

    @rule(seed=st.integers(0, 12))
    def failed_backup(self, seed: int) -> None:
        writer = self.opened()
        kit.send(writer, kit.content(seed))
        writer.release_owner(1)

    @rule()
    def end(self) -> None:
        self.opened().seal()
        self.writer = None

    @rule(lose_index=st.booleans())
    def die(self, lose_index: bool) -> None:
        self.opened().close()
        self.writer = None
        if lose_index:
            shutil.rmtree(self.home / "index")

    @precondition(lambda self: self.writer is None)
    @rule()
    def active_full(self) -> None:
        self.writer = kit.open_writer(self.storage, self.home / "index", new_generation=True)

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        unwanted = data.draw(st.sets(st.sampled_from(sorted(self.kept)), max_size=3))
        assert set(self.opened().forget(unwanted)) == unwanted
        for point_id in unwanted:
            del self.kept[point_id]

    @rule(force=st.booleans())
    def give_back(self, force: bool) -> None:
        done = self.opened().give_back(self.storage_class, force=force)
        assert done is None or done.warnings == []

    @rule(rewrite=st.booleans())
    def compact(self, rewrite: bool) -> None:
        assert self.opened().compact(self.storage_class, rewrite=rewrite).warnings == []

    @rule()
    def synthetic_full(self) -> None:
        writer = self.opened()
        if writer.generation_points:
            writer.synthetic_full(self.storage_class)

    @invariant()
    def all_that_is_kept_restores(self) -> None:
        if not hasattr(self, "kept"):
            return
        assert {point.point_id for point in read_points(self.storage, kit.DIRECTORY)} == set(self.kept)
        for point_id, image in self.kept.items():
            assert kit.restore(self.storage, point_id) == {"d0": image}


@pytest.mark.parametrize("storage_class", ["clone", "punch", "copy"])
def test_histories(storage_class: StorageClass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(eviction, "MOST_POINTLESS_FILES", 2)
    machine = type(f"Histories_{storage_class}", (Histories,), {"storage_class": storage_class})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
