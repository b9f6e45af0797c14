"""What the contents lists of a chain say, and what the next one of this run will."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

import vbrcore
from vbrcore.backupfile.contents import Contents, Damage, KeySlot, TablePart
from vbrcore.backupfile.file import BackupFile, read_slots
from vbrcore.backupfile.filewriter import FileWriter, new_slot
from vbrcore.backupfile.slots import FEATURE_ENCRYPTED, FLAG_FULL, Slot
from vbrcore.chain.files import ChainFiles, FileKind, file_names, new_name, read_files, sort_points
from vbrcore.model.errors import ChainDiffers, FormatInvalid, KeyNeeded, WriterReplaced
from vbrcore.model.foreign import NUMBERS_END
from vbrcore.model.point import Point
from vbrcore.storage.port import ALIGNMENT_BYTES, Storage

_MOST_COUNTED: Final = 1 << 32  # by one run: points, generations
WRITER: Final = f"vbrcore {vbrcore.__version__}"


class Run(msgspec.Struct, frozen=True):
    """Who writes: the session and the job (`machine_id` and `machine` only for a chain of one machine).

    `encrypt`: a chain that begins now is an encrypted one. `new_generation`: an active full, which is also made where
    the generation that is there was begun before `fresh_after`. `chain_id`: what the chain's must be (empty: any).
    Names of encrypted chains are empty or hidden here.
    """

    session_id: str
    job_id: str
    job_name: str
    created: float
    block_size_bytes: int
    machine_id: str = ""
    machine: str = ""
    encrypt: bool = False
    new_generation: bool = False
    fresh_after: float = 0.0
    chain_id: bytes = b""


class Ledger:
    """The chain's files by id, and the numbers of this run. Not thread-safe: its user has a lock."""

    def __init__(self, storage: Storage, directory: str, run: Run, fence: Callable[[], None]) -> None:
        self._storage = storage
        self._directory = directory
        self._fence = fence
        self.run = run
        found = _clean_up(storage, read_files(storage, directory), fence)
        self.files = {file.file_id: file for file in found.files}
        self.run_number = 1 + max(self._run_numbers(found), default=0)
        self._revision = 0
        self._last_sequence = max(
            (
                max([file.contents.last_sequence, *(point.sequence for point in file.contents.points)])
                for file in found.files
            ),
            default=0,
        )
        self._written_ids: set[bytes] = set()
        self._own_ids: set[bytes] = set()
        newest = max(found.files, key=lambda file: file.age, default=None)
        self.is_new = newest is None
        self.chain_id = newest.slot.chain_id if newest else run.chain_id or uuid.uuid4().bytes
        if run.chain_id not in {b"", self.chain_id}:
            raise ChainDiffers(f"{directory} holds another chain than the one that it is to be a copy of")
        self.encrypted = newest.slot.encrypted if newest else run.encrypt
        self.key_slots: tuple[KeySlot, ...] = newest.contents.key_slots if newest else ()
        self.unreadable = tuple(reason for _, reason in found.unreadable)
        # Of each generation, what its newest list says.
        self._listed = {file.slot.generation_id: file.contents.generation_files for file in found.files}
        self._numbers = {file.slot.generation_id: file.contents.generation_number for file in found.files}
        if max(self.run_number, self._last_sequence, *self._numbers.values(), 0) + _MOST_COUNTED >= NUMBERS_END:
            raise FormatInvalid(f"{directory}: its numbers have come to their end")
        chosen = _chosen_generation(found, run)
        if chosen is None:
            self.start_generation()
        else:
            self.generation_id = chosen
        self.warnings = [*self.unreadable]
        self.warnings += [f"{directory}: file {name} of the chain is missing" for name in self.missing()]

    def _run_numbers(self, found: ChainFiles) -> Iterator[int]:
        """Yield those of all slots, also of those that lead nowhere: a rival's would not differ from them."""
        yield from (file.last_run_number for file in found.files)
        for name, _ in found.unreadable:
            yield from (slot.run_number for slot in read_slots(self._storage, name) if isinstance(slot, Slot))

    def points(self) -> tuple[Point, ...]:
        """All points, oldest first."""
        return sort_points(point for file in self.files.values() for point in file.contents.points)

    def generation(self, generation_id: bytes = b"") -> tuple[BackupFile, ...]:
        """The files of a generation (the current one if none is named), newest list last."""
        wanted = generation_id or self.generation_id
        files = (file for file in self.files.values() if file.slot.generation_id == wanted)
        return tuple(sorted(files, key=lambda file: file.rank))

    def generations(self) -> tuple[bytes, ...]:
        """The ids of all generations, oldest first, the current one last."""
        there = {file.slot.generation_id for file in self.files.values()} - {self.generation_id}
        return (*sorted(there, key=lambda name: self._numbers[name]), self.generation_id)

    def missing(self, generation_id: bytes = b"") -> tuple[str, ...]:
        """Ids of files that a generation should have and that were not found, apart from files not committed yet."""
        listed = self._listed.get(generation_id or self.generation_id, ())
        there = {file_id.hex() for file_id in self.files.keys() | self._own_ids}
        return tuple(name for name in listed if name not in there)

    def pending(self) -> bytes | None:
        """Return the id of a later generation without points in blocks of this run's size: a full not finished."""
        for name in sorted(self._numbers, key=lambda name: self._numbers[name], reverse=True):
            files = self.generation(name)
            if self._numbers[name] <= self._numbers[self.generation_id] or not files:
                continue
            usable = all(file.slot.block_size_bytes == self.run.block_size_bytes for file in files)
            if usable and not self.missing(name) and not any(file.contents.points for file in files):
                return name
        return None

    def start_generation(self, pending: bytes | None = None) -> None:
        """From now on write into a new generation, or into one that was begun."""
        if pending is None:
            pending = uuid.uuid4().bytes
            self._numbers[pending] = 1 + max(self._numbers.values(), default=-1)
            self._listed[pending] = ()
        self.generation_id = pending

    @contextlib.contextmanager
    def within(self, generation_id: bytes) -> Iterator[None]:
        """Write into another generation for a while."""
        current, self.generation_id = self.generation_id, generation_id
        try:
            yield
        finally:
            self.generation_id = current

    def return_to(self, generation_id: bytes) -> None:
        """Go on in an earlier generation: the later one was given up."""
        self.generation_id = generation_id

    def previous(self, point: Point) -> Point | None:
        """Return the newest point of the same machine in the current generation."""
        points = sort_points(
            other
            for file in self.generation()
            for other in file.contents.points
            if (other.plugin, other.machine_id) == (point.plugin, point.machine_id)
        )
        return points[-1] if points else None

    def numbered(self, point: Point) -> Point:
        """Return the point with its sequence and its kind: the next one, but a copied point keeps that of its source.

        So the copies of a chain stand in its order, whenever each was made.
        """
        kind = "full" if self.previous(point) is None else "increment"
        keeps = point.source_point_id and point.sequence > 0
        if keeps and all(other.sequence != point.sequence for other in self.points()):
            return msgspec.structs.replace(point, kind=kind)
        return msgspec.structs.replace(point, sequence=self._last_sequence + 1, kind=kind)

    def new_file(self, kind: FileKind = "inc") -> FileWriter:
        """Make this run's next file; nobody sees it before its first commit. A generation's first is "full"."""
        if self.encrypted and not self.key_slots:
            raise KeyNeeded(f"{self._directory}: nothing wraps the key of this chain, so nobody could open its files")
        listed = self._listed[self.generation_id]
        first = not listed
        kind = "full" if first else kind
        name = new_name(self._storage, self._directory, self.run.session_id, self.run.created, kind)
        slot = new_slot(
            uuid.uuid4().bytes,
            self.chain_id,
            self.generation_id,
            self._block_size_bytes(),
            FLAG_FULL if first else 0,
            features=FEATURE_ENCRYPTED if self.encrypted else 0,
            alignment_bytes=max(ALIGNMENT_BYTES, self._storage.alignment_bytes),
        )
        file = FileWriter.create(self._storage, name, slot, self._contents((), (), listed), self._fence)
        self._written_ids.add(slot.file_id)
        self._own_ids.add(slot.file_id)
        self._listed[self.generation_id] = (*listed, slot.file_id.hex())
        return file

    def _block_size_bytes(self) -> int:
        files = self.generation()
        return files[-1].slot.block_size_bytes if files else self.run.block_size_bytes

    def unlist(self, *files: BackupFile) -> None:
        """Name these files no more in the lists to come: they are about to be removed, or were never committed."""
        gone = {file.file_id.hex() for file in files}
        for generation_id in {file.slot.generation_id for file in files}:
            listed = self._listed[generation_id]
            self._listed[generation_id] = tuple(file_id for file_id in listed if file_id not in gone)

    def forget_file(self, file: BackupFile) -> None:
        """The file was removed."""
        self.files.pop(file.file_id, None)

    def contents(self, points: tuple[Point, ...], tables: tuple[TablePart, ...]) -> Contents:
        """Return this run's next contents list, for a file of its own."""
        return self._contents(points, tables, self._listed[self.generation_id])

    def is_of_earlier_run(self, file_id: bytes) -> bool:
        return file_id not in self._own_ids

    def rewritten(self, file: BackupFile, points: tuple[Point, ...], damaged: tuple[Damage, ...]) -> Contents:
        """Return the contents list of another run's file, with these points and marks and this run's number."""
        self._written_ids.add(file.file_id)
        self._revision += 1
        uncommitted = self._own_ids - self.files.keys()
        return msgspec.structs.replace(
            file.contents,
            writer=WRITER,
            run_number=self.run_number,
            revision=self._revision,
            points=points,
            damaged=damaged,
            last_sequence=self._last_sequence,
            key_slots=self.key_slots,
            # This run's own file may not be committed yet, and never will be if the run dies now.
            generation_files=tuple(
                name for name in self._listed[file.slot.generation_id] if bytes.fromhex(name) not in uncommitted
            ),
        )

    def note(self, file: BackupFile) -> None:
        """A file stands as committed now."""
        self.files[file.file_id] = file
        for point in file.contents.points:
            self._last_sequence = max(self._last_sequence, point.sequence)

    def check_not_replaced(self) -> None:
        """Raise `WriterReplaced` when a later run (or a rival with the same number) has committed to this chain."""
        for name in file_names(self._storage, self._directory):
            for slot in read_slots(self._storage, name):
                if isinstance(slot, FormatInvalid):
                    continue
                if not isinstance(slot, Slot):
                    raise WriterReplaced(f"{name} was written meanwhile: {slot}")
                own = slot.file_id in self._written_ids
                if slot.run_number > self.run_number or (slot.run_number == self.run_number and not own):
                    raise WriterReplaced(f"{name} was written by run {slot.run_number}; this is {self.run_number}")

    def _contents(self, points: tuple[Point, ...], tables: tuple[TablePart, ...], listed: tuple[str, ...]) -> Contents:
        self._revision += 1
        sequences = (point.sequence for point in points)
        return Contents(
            writer=WRITER,
            run_number=self.run_number,
            revision=self._revision,
            session_id=self.run.session_id,
            job_id=self.run.job_id,
            job_name="" if self.encrypted else self.run.job_name,
            created=self.run.created,
            last_sequence=max([self._last_sequence, *sequences]),
            generation_files=listed,
            tables=tables,
            points=points,
            key_slots=self.key_slots,
            machine_id=self.run.machine_id,
            machine="" if self.encrypted else self.run.machine,
            generation_number=self._numbers[self.generation_id],
        )


def _chosen_generation(found: ChainFiles, run: Run) -> bytes | None:
    """Return the id of the generation that a run goes on with; None: it starts one.

    That is the newest one with points: what a full that never came to a point has left is passed over, but by a retry
    in the same session. Dedup and maps stay inside a generation, so another block size starts one.
    """
    newest = found.newest
    if newest is None:
        return None
    pointed = next((file for file in reversed(found.files) if file.contents.points), newest)
    current = next(file for file in reversed(found.files) if file.slot.generation_id == pointed.slot.generation_id)
    started = min(file.contents.created for file in found.generation(current.slot.generation_id))
    fresh = not run.new_generation and started >= run.fresh_after
    if fresh and current.slot.block_size_bytes == run.block_size_bytes:
        return current.slot.generation_id
    began = any(
        file.slot.full and file.contents.session_id == run.session_id
        for file in found.generation(newest.slot.generation_id)
    )
    if newest.slot.block_size_bytes == run.block_size_bytes and began:
        return newest.slot.generation_id
    return None


def _clean_up(storage: Storage, found: ChainFiles, fence: Callable[[], None]) -> ChainFiles:
    """Give back what writers that died left: files never committed, and what lies behind a committed body."""
    for name in found.begun:
        fence()
        storage.remove(name)
    for file in found.files:
        end = -(-file.slot.body_end // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if not file.slot.sealed and storage.size(file.name) > end:
            fence()
            storage.truncate(file.name, end)
    return ChainFiles(found.files, found.unreadable)
