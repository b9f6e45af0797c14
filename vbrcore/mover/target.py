"""The target mover: the one writer of a chain. It listens for sources, stores what they send and commits points."""

import queue
import threading
from pathlib import Path
from typing import Final

from vbrcore.backupfile.codec import digest
from vbrcore.chain.writer import ChainWriter
from vbrcore.model.errors import (
    BlocksMissing,
    DataCorrupt,
    InvalidValue,
    ProtocolError,
    RepositoryFull,
    StorageFailed,
    VbrError,
    info_of,
)
from vbrcore.model.session import Totals
from vbrcore.mover.control import Control
from vbrcore.mover.intake import Intake
from vbrcore.mover.messages import (
    ChainPoints,
    CommitPoint,
    Compact,
    DamageMarked,
    Ended,
    ExpectTask,
    ForgetPoints,
    Forgotten,
    FullMade,
    GiveBack,
    KeySlotsWritten,
    Listening,
    MakeFull,
    MarkDamaged,
    PointCommitted,
    PointRefused,
    Progress,
    Ready,
    Seal,
    Stop,
    TargetWork,
    ToMover,
    UpkeepDone,
    UseKeySlots,
    VoidTask,
)
from vbrcore.mover.pace import Pace
from vbrcore.storage.capabilities import StorageClass, probe
from vbrcore.storage.places import open_place
from vbrcore.storage.port import Storage
from vbrcore.storage.repository import space_of

PROGRESS_PERIOD_S: Final = 1.0
_POINTS_AT_ONCE: Final = 256  # in one message; their warnings and disks can be many
# After these the file cannot be trusted with another write by this process.
_FATAL: Final = (StorageFailed,)
# What says that a full cannot be made of what is stored: the chain is as it was then.
_NO_FULL: Final = (BlocksMissing, DataCorrupt, InvalidValue)


def run(control: Control) -> None:
    """Write one chain until `Seal` or `Stop`. Raises what ended it early; committed points stand."""
    work = control.receive()
    if isinstance(work, Stop):
        control.send(Ended())
        return
    if not isinstance(work, TargetWork):
        raise ProtocolError(f"a target mover cannot do {type(work).__name__}")
    storage = open_place(work.place, work.repository_id)
    _check_space(storage, work, running=False)
    storage_class = _storage_class(storage)
    pace = Pace(work.rate_limit_bytes_s)
    writer = ChainWriter.open(
        storage,
        work.directory,
        job_id=work.job_id,
        job_name=work.job_name,
        session_id=work.session_id,
        created=work.created,
        block_size_bytes=work.block_size_bytes,
        index_directory=Path(work.index_directory),
        fence=control.fence,
        encrypt=work.encrypt,
        machine_id=work.machine_id,
        machine=work.machine,
        new_generation=work.new_generation,
        fresh_after=work.fresh_after,
        pace=pace,
        chain_id=work.chain_id,
    )
    try:
        _Target(control, work, writer, storage, storage_class=storage_class, pace=pace).run()
    finally:
        writer.close()


class _Target:
    """Three kinds of threads: orders (this one does them, in order), the clock, and the intake of sources."""

    def __init__(
        self,
        control: Control,
        work: TargetWork,
        writer: ChainWriter,
        storage: Storage,
        *,
        storage_class: StorageClass | None,
        pace: Pace,
    ) -> None:
        self._control = control
        self._work = work
        self._writer = writer
        self._storage = storage
        self._found_class = storage_class
        # Where no room is left to try it out, holes are tried all the same: they are what makes room.
        self._storage_class: StorageClass = storage_class or "punch"
        self._orders: queue.SimpleQueue[ToMover | VbrError] = queue.SimpleQueue()
        self._full = False
        self._ended = threading.Event()
        # Named by the chain, of which there is one writer: a successor finds the place and replaces what is there.
        name = digest(work.directory.encode()).hex()[:16]
        path = Path(work.index_directory) / f"data-{name}" / "target"
        self._intake = Intake(writer, path, self._on_fatal, pace, lambda text: control.log("warning", text))

    def run(self) -> None:
        try:
            for duty in (self._listen, self._watch):
                threading.Thread(target=duty, name=duty.__name__, daemon=True).start()
            writer = self._writer
            damaged = tuple(sorted(writer.damaged))
            points = writer.points
            for start in range(0, len(points), _POINTS_AT_ONCE):
                self._control.send(ChainPoints(points[start : start + _POINTS_AT_ONCE]))
            self._control.send(
                Ready(
                    str(self._intake.path),
                    damaged,
                    writer.warnings,
                    chain=writer.chain,
                    base_point_ids=tuple(point.point_id for point in writer.generation_points),
                    generation_started=writer.generation_started,
                    storage_class=self._found_class or "",
                )
            )
            self._control.log("info", f"chain is open and locked, {len(points)} points")
            while self._do(self._orders.get()):
                pass
        finally:
            self._ended.set()
            self._intake.close()
        self._writer.seal()
        self._control.send(Ended(self._writer.stored_bytes))

    def _do(self, order: ToMover | VbrError) -> bool:
        """Carry out one order; False after the last one."""
        match order:
            case CommitPoint():
                self._commit(order)
            case UseKeySlots():
                self._control.send(KeySlotsWritten(self._writer.set_key_slots(order.key_slots)))
            case ForgetPoints():
                self._control.send(Forgotten(self._writer.forget(order.point_ids)))
            case GiveBack(force=force):
                self._control.send(UpkeepDone(self._writer.give_back(self._storage_class, force=force)))
            case Compact(rewrite=rewrite):
                self._control.send(UpkeepDone(self._writer.compact(self._storage_class, rewrite=rewrite)))
            case MakeFull():
                self._make_full()
            case MarkDamaged():
                self._control.send(DamageMarked(self._writer.mark_damaged(order.marks, order.bad_tables)))
            case Seal() | Stop():
                return False
            case VbrError():
                raise order
            case _:
                raise ProtocolError(f"a target mover cannot do {type(order).__name__}")
        return True

    def _commit(self, order: CommitPoint) -> None:
        try:
            point = self._writer.commit_point(order.point)
        except _FATAL:
            raise
        except VbrError as error:
            self._control.send(PointRefused(order.point.point_id, info_of(error)))
        else:
            self._control.send(PointCommitted(point, self._writer.stored_bytes))

    def _make_full(self) -> None:
        try:
            done = self._writer.synthetic_full(self._storage_class)
        except _NO_FULL as error:
            self._control.send(FullMade(error=info_of(error)))
        else:
            self._control.send(FullMade(tuple(point.point_id for point in self._writer.generation_points), done))

    def _listen(self) -> None:
        """Take in orders. Whom to expect must be known at once, also while a commit is at work."""
        while True:
            message = self._control.receive()
            if isinstance(message, ExpectTask):
                self._expect(message)
            elif isinstance(message, VoidTask):
                self._intake.void(message.task_id)
            elif message is not None:
                self._orders.put(message)

    def _expect(self, task: ExpectTask) -> None:
        try:
            port = self._intake.expect(task)
        except VbrError as error:
            self._control.send(Listening(task.task_id, attempt=task.attempt, error=info_of(error)))
        else:
            if port:
                self._control.send(Listening(task.task_id, port, task.attempt))

    def _watch(self) -> None:
        """Once a second: progress, and the repository's reserve."""
        while not self._ended.wait(PROGRESS_PERIOD_S):
            stored = self._writer.stored_bytes
            totals = Totals(transferred_bytes=self._intake.received_bytes, stored_bytes=stored)
            self._control.send(Progress(stored, 0, totals, {"target": self._intake.busy()}))
            if not self._full:
                try:
                    _check_space(self._storage, self._work, running=True)
                except VbrError as error:
                    self._full = True
                    self._intake.refuse_all(error)

    def _on_fatal(self, error: VbrError) -> None:
        self._orders.put(error)


def _check_space(storage: Storage, work: TargetWork, *, running: bool) -> None:
    """Raise `RepositoryFull` below the reserve, or (for running tasks) below half of it."""
    space = space_of(storage, work.reserve_bytes)
    if space.below_half_reserve if running else space.below_reserve:
        raise RepositoryFull(
            f"{work.place} has {space.free_bytes} bytes free; {space.reserve_bytes} are kept in reserve"
        )


def _storage_class(storage: Storage) -> StorageClass | None:
    """Find out what the storage can do; None: there is no room to try it."""
    try:
        return probe(storage)
    except RepositoryFull:
        return None
