"""A trivial model of a chain, a dict of images, and what may happen to a chain in a long life."""

import contextlib
import datetime as dt
import importlib.util
import shutil
import tempfile
from pathlib import Path
from typing import Any, Final

import hypothesis.strategies as st
import msgspec
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.chain.invariants import all_rows, check_tidy
from vbrcore.backupfile.codec import DIGEST_BYTES
from vbrcore.backupfile.contents import Damage
from vbrcore.backupfile.file import open_file
from vbrcore.backupfile.filewriter import FileWriter
from vbrcore.backupfile.maps import walk
from vbrcore.backupfile.rows import HEADER_BYTES
from vbrcore.chain.files import read_files
from vbrcore.chain.listing import read_points
from vbrcore.chain.reader import ChainReader
from vbrcore.chain.retention import decide
from vbrcore.chain.sweep import offset_of
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import BlocksMissing, DataCorrupt
from vbrcore.model.job import BLOCK_SIZES_BYTES
from vbrcore.model.retention import MINIMUM_POINTS, Retention
from vbrcore.storage.capabilities import StorageClass
from vbrcore.testing import chain_kit as kit
from vbrcore.testing.memory_storage import MemoryStorage

SIZE: Final = kit.size_of(300)
MACHINES: Final = ["m1", "m2", "m3"]
MOST_POINTLESS: Final = 2
LEAK_BYTES: Final = 8192
DAY_S: Final = 86_400.0


class Kept(msgspec.Struct):
    """A point as the model has it: `image` maps blocks to seeds of their content; `reach` are its maps' digests."""

    machine: str
    block_size_bytes: int
    image: dict[int, int]
    created: float
    reach: frozenset[bytes]

    def content(self) -> dict[int, bytes]:
        return {index: kit.content(seed, self.block_size_bytes) for index, seed in self.image.items()}


class Histories(RuleBasedStateMachine):
    storage_class: StorageClass = "clone"

    @initialize(alignment=st.sampled_from([4096, 16384]))
    def begin(self, alignment: int) -> None:
        self.home = Path(tempfile.mkdtemp())
        self.storage = MemoryStorage(storage_class=self.storage_class, alignment_bytes=alignment)
        self.kept: dict[str, Kept] = {}
        self.now = kit.CREATED
        self.block_size_bytes = BLOCK_SIZES_BYTES[0]
        self.images: dict[str, dict[int, int]] = {machine: {0: 0} for machine in MACHINES}
        self.broken: set[bytes] = set()  # digests of which no intact extent is left
        self.pins: dict[str, tuple[ChainReader, str]] = {}
        self.writer: ChainWriter | None = None

    def teardown(self) -> None:
        if not hasattr(self, "home"):
            return
        try:
            self.extract_all()
        finally:
            for reader, _ in self.pins.values():
                reader.close()
            if self.writer is not None:
                self.writer.close()
            shutil.rmtree(self.home)

    # --- sessions ------------------------------------------------------------------------------------

    def opened(self, *, new_generation: bool = False) -> ChainWriter:
        if self.writer is None:
            self.writer = kit.open_writer(
                self.storage,
                self.home / "index",
                block_size_bytes=self.block_size_bytes,
                new_generation=new_generation,
                created=self.now,
            )
            assert self.writer.warnings == ()
        return self.writer

    @rule(
        machine=st.sampled_from(MACHINES),
        changes=st.dictionaries(st.integers(0, 299), st.integers(0, 12), max_size=4),
        holes=st.sets(st.integers(0, 299), max_size=2),
        hours=st.integers(1, 60),
    )
    def backup(self, machine: str, changes: dict[int, int], holes: set[int], hours: int) -> None:
        self.now += hours * 3600
        blocks = SIZE // self.block_size_bytes
        image = self.images[machine] | {index % blocks: seed for index, seed in changes.items()}
        self.images[machine] = image = {index: seed for index, seed in image.items() if index not in holes}
        kept = Kept(machine, self.block_size_bytes, image, self.now, frozenset())
        point = kit.send_point(
            self.opened(),
            kept.content(),
            SIZE,
            machine,
            block_size_bytes=self.block_size_bytes,
            created=self.now,
        )
        with ChainReader.open(self.storage, kit.DIRECTORY) as reader:
            (disk,) = point.disks
            reached = walk(disk.root, SIZE, point.block_size_bytes, reader.block)
            kept.reach = frozenset({point.configuration, *(digest for *_, digest in reached)})
        self.kept[point.point_id] = kept
        self.broken -= kept.reach  # whatever this point has is there again, for all others too

    @rule(seed=st.integers(0, 12))
    def failed_backup(self, seed: int) -> None:
        writer = self.opened()
        kit.send(writer, kit.content(seed, self.block_size_bytes))
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
        self.opened(new_generation=True)

    @precondition(lambda self: self.writer is None)
    @rule(block_size_bytes=st.sampled_from(BLOCK_SIZES_BYTES[:2]))
    def change_the_block_size(self, block_size_bytes: int) -> None:
        if block_size_bytes != self.block_size_bytes:
            self.block_size_bytes = block_size_bytes
            self.images = {machine: {0: 0} for machine in MACHINES}

    # --- what is kept --------------------------------------------------------------------------------

    def gone(self, unwanted: set[str]) -> None:
        """Forget; what is being read stays."""
        unwanted -= {point_id for _, point_id in self.pins.values()}
        assert set(self.opened().forget(unwanted)) == unwanted
        for point_id in unwanted:
            del self.kept[point_id]
        self.broken = {digest for digest in self.broken if any(digest in kept.reach for kept in self.kept.values())}

    @precondition(lambda self: self.kept)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        unwanted = data.draw(st.sets(st.sampled_from(list(self.kept)), max_size=3))
        pinned = {point_id for _, point_id in self.pins.values()}
        assert not set(self.opened().forget(unwanted & pinned))
        self.gone(unwanted)

    @rule(points=st.integers(0, 5), days=st.integers(0, 3), weeks=st.integers(0, 2))
    def retain(self, points: int, days: int, weeks: int) -> None:
        """As retention settings say; by numbers alone the model can say it as well."""
        writer = self.opened()
        policy = Retention(keep_points=points, keep_days=days, keep_weekly=weeks)
        verdicts = decide(
            writer.points, policy, self.now, present_machines=None, pinned=writer.pinned, clock_trusted=True
        )
        goes = {verdict.point_id for verdict in verdicts if not verdict.keep}
        stays = {point_id for _, point_id in self.pins.values()}
        today = dt.datetime.fromtimestamp(self.now, dt.UTC).date()
        for machine in MACHINES:
            mine = [point_id for point_id, kept in self.kept.items() if kept.machine == machine]
            stays |= set(mine[-max(points, MINIMUM_POINTS) :])
            for point_id in mine:
                day = dt.datetime.fromtimestamp(self.kept[point_id].created, dt.UTC).date()
                if (today - day).days < days:
                    stays.add(point_id)
        assert not goes & stays
        if not weeks:
            assert goes | stays == set(self.kept)
        self.gone(goes)

    @precondition(lambda self: self.kept and len(self.pins) < 2)
    @rule(data=st.data())
    def begin_to_read(self, data: st.DataObject) -> None:
        point_id = data.draw(st.sampled_from(list(self.kept)))
        before = set(self.storage.list(f"{kit.DIRECTORY}/pin-"))
        reader = ChainReader.open(self.storage, kit.DIRECTORY, point_id)
        (name,) = set(self.storage.list(f"{kit.DIRECTORY}/pin-")) - before
        self.pins[name] = reader, point_id

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def end_reading(self, data: st.DataObject) -> None:
        """A reader that began long ago reads on, wherever its blocks are now."""
        name = data.draw(st.sampled_from(list(self.pins)))
        reader, point_id = self.pins.pop(name)
        kept = self.kept[point_id]
        with reader:
            if not self.is_broken(kept):
                point = reader.point(point_id)
                image = {index: reader.block(digest) for index, digest in reader.leaves(point, point.disks[0])}
                assert image == kept.content()

    # --- giving back ---------------------------------------------------------------------------------

    @rule(force=st.booleans())
    def give_back(self, force: bool) -> None:
        done = self.opened().give_back(self.storage_class, force=force)
        if done is None or self.is_hurt():
            return
        assert done.warnings == []
        if force:
            check_tidy(
                self.storage,
                slack_bytes=max(LEAK_BYTES, 2 * self.storage.alignment_bytes),
                most_pointless=MOST_POINTLESS,
                pins=frozenset(self.pins),
            )

    @rule(rewrite=st.booleans())
    def compact(self, rewrite: bool) -> None:
        done = self.opened().compact(self.storage_class, rewrite=rewrite)
        assert done.warnings == [] or self.is_hurt()

    @rule()
    def synthetic_full(self) -> None:
        writer = self.opened()
        if writer.generation_points:
            with contextlib.suppress(*[BlocksMissing, DataCorrupt] if self.is_hurt() else []):
                writer.synthetic_full(self.storage_class)

    # --- damage --------------------------------------------------------------------------------------

    @precondition(lambda self: self.writer is None and self.kept)
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        """A byte of an extent changes, and a health check names it."""
        names = [name for name in self.storage.list(f"{kit.DIRECTORY}/") if name.endswith(".vbf")]
        name = data.draw(st.sampled_from(sorted(names)))
        file = open_file(self.storage, name)
        rows = sorted(all_rows(self.storage, file))
        if not rows:
            return
        row = data.draw(st.sampled_from(rows))
        digest, offset = row[:DIGEST_BYTES], offset_of(row)
        self.storage.file(name)[offset + HEADER_BYTES] ^= 0x10
        writer = FileWriter.modify(self.storage, file, lambda: None)
        damaged = (*file.contents.damaged, Damage(digest, offset))
        writer.commit(msgspec.structs.replace(file.contents, damaged=damaged), file.gone, both=True)
        writer.close()
        with ChainReader.open(self.storage, kit.DIRECTORY) as reader:
            if reader.find(digest) is None and any(digest in kept.reach for kept in self.kept.values()):
                self.broken.add(digest)

    def is_hurt(self) -> bool:
        """A generation has lost an extent, be there another in another generation: nothing is given back in it."""
        files = read_files(self.storage, kit.DIRECTORY).files
        intact = {(f.slot.generation_id, row[:DIGEST_BYTES]) for f in files for row in all_rows(self.storage, f)}
        reached = frozenset[bytes]().union(*(kept.reach for kept in self.kept.values()))
        named = {(f.slot.generation_id, damage.digest) for f in files for damage in f.contents.damaged}
        return any(digest in reached for _, digest in named - intact)

    def is_broken(self, kept: Kept) -> bool:
        return bool(kept.reach & self.broken)

    # --- what must hold ------------------------------------------------------------------------------

    @invariant()
    def all_that_is_kept_restores(self) -> None:
        if not hasattr(self, "kept"):
            return
        assert {point.point_id for point in read_points(self.storage, kit.DIRECTORY)} == set(self.kept)
        whole = {point_id: kept for point_id, kept in self.kept.items() if not self.is_broken(kept)}
        if whole:
            images = kit.restore_all(self.storage, whole)
            assert images == {point_id: {"d0": kept.content()} for point_id, kept in whole.items()}
        for point_id in self.kept.keys() - whole.keys():
            try:
                kit.restore(self.storage, point_id)
            except (BlocksMissing, DataCorrupt):
                continue
            raise AssertionError(f"{point_id} reaches what is damaged, and restores")

    def extract_all(self) -> None:
        """The extracting program agrees, point by point."""
        directory = self.home / "extracted"
        directory.mkdir()
        names = [name for name in self.storage.list(f"{kit.DIRECTORY}/") if name.endswith(".vbf")]
        for name in names:
            (directory / Path(name).name).write_bytes(self.storage.files[name])
        for number, (point_id, kept) in enumerate(self.kept.items()):
            output = self.home / f"{number}.raw"
            arguments = ["extract", str(directory), "--point", point_id, "--disk", "d0", "--output", str(output)]
            code = EXTRACTOR.main(arguments)
            assert code == (1 if self.is_broken(kept) else 0)
            if code == 0:
                assert output.stat().st_size == SIZE
                with output.open("rb") as file:
                    empty = bytes(kept.block_size_bytes)
                    content = kept.content()
                    for index in range(SIZE // kept.block_size_bytes):
                        assert file.read(kept.block_size_bytes) == content.get(index, empty)
                output.unlink()


def _extractor() -> Any:
    path = Path(__file__).resolve().parents[2] / "extras" / "vbf_extract.py"
    spec = importlib.util.spec_from_file_location("vbf_extract", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


EXTRACTOR: Final = _extractor()
