"""One machine of a backup session: snapshot, its disks, the commit of its point, the release."""

import asyncio
import time
from collections.abc import Iterable, Sequence

from vbrcore.manager.context import Context, pause
from vbrcore.manager.disks import JobParts, MachineDisks
from vbrcore.manager.jobchain import JobChain
from vbrcore.manager.journal import SnapshotEntry, SnapshotJournal
from vbrcore.manager.outcome import committed_point
from vbrcore.manager.target import TargetRun
from vbrcore.model.errors import OutsideWindow, SessionStopped, VbrError, info_of
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.session import Task, Totals
from vbrcore.mover.messages import DiskDone
from vbrcore.plugins.api import BaseDisk, Snapshot, SnapshotPlan, SnapshotRequest

RETRY_WAITS_S = (5.0, 15.0, 45.0)  # DESIGN 4.6


class MachineBackup:
    """Backs up one machine; `error` is None when its point is committed."""

    def __init__(
        self, context: Context, parts: JobParts, chain: JobChain, machine: Machine, tasks: Sequence[Task]
    ) -> None:
        self.machine = machine
        self.chain = chain
        self.error: VbrError | None = None
        self.totals = Totals()
        self.point: Point | None = None
        self._context = context
        self._parts = parts
        self._tasks = tuple(tasks)
        self._disks = MachineDisks(context, parts, machine, tasks)

    @property
    def _name(self) -> str:
        return self.machine.name

    async def run(self) -> None:
        """Try the machine, and again as a whole after a failure that retrying can mend. Raises nothing expected."""
        log = self._context.log
        for attempt in range(1 + self._retries):
            try:
                await self._attempt(attempt)
            except OutsideWindow as error:
                self.error = self.error or error  # what it failed by before says more
                break
            except VbrError as error:
                self.error = error
                log.error(f"attempt {attempt + 1}: {error.code}: {error}", machine=self._name)
                if not self._try_again(error, attempt):
                    break
                wait_s = RETRY_WAITS_S[min(attempt, len(RETRY_WAITS_S) - 1)]
                log.info(f"the machine is tried again in {wait_s:.0f} s", machine=self._name)
                self._reset_tasks(f"retry in {wait_s:.0f} s")
                await pause(wait_s, self._context.stop)
            else:
                self.error = None
                return
        self._close_tasks()

    def end(self, error: VbrError) -> None:
        """The session ended this machine from outside."""
        self.error = error
        self._close_tasks()

    def _try_again(self, error: VbrError, attempt: int) -> bool:
        stopped = self._context.stop.requested.is_set() or self._context.leases.lost.is_set()
        return error.retryable and not stopped and attempt < self._retries

    @property
    def _retries(self) -> int:
        """A scheduled session leaves retries to sessions that follow it, if there are any: not three times three.

        Nobody waits, what failed has more time to mend, and meanwhile neither the chain nor a process is held.
        """
        job = self._parts.job
        return 0 if job.schedule.session_retries and not self._context.session.manual else job.machine_retries

    def _reset_tasks(self, reason: str) -> None:
        for task in self._tasks:
            self._context.catalog.update_task(task.task_id, state="pending", reason=reason)

    def _close_tasks(self) -> None:
        """Give the tasks that did not fail themselves the machine's error: no task of a failed machine is done."""
        skipped = isinstance(self.error, SessionStopped | OutsideWindow)
        error = None if skipped or self.error is None else info_of(self.error)
        for task in self._tasks:
            self._context.catalog.update_task(
                task.task_id,
                state="skipped" if skipped else "failed",
                reason=self.error.code if skipped and self.error is not None else "",
                error=error,
                ended=time.time(),
            )

    # --- one attempt ----------------------------------------------------------------------------

    async def _attempt(self, attempt: int) -> None:
        gate = self._parts.gate
        self._context.stop.check()
        gate.check()
        await gate.while_open(self.chain.acquire())
        try:
            await gate.while_open(self._disks.acquire_first())
            self._context.stop.check()
            target = await self.chain.ready()
            await self._with_snapshot(target, attempt)
        finally:
            self._disks.release()

    async def _with_snapshot(self, target: TargetRun, attempt: int) -> None:
        connection = self._parts.connection
        base = self._last_point(target)
        request = SnapshotRequest(
            job_id=self._parts.job.job_id,
            session_id=self._context.session.session_id,
            attempt=attempt,
            machine=self.machine,
            quiesce=self._parts.job.quiesce,
            base=_base_disks(base),
        )
        plan = await connection.call(connection.hypervisor.plan_snapshot, request)
        point_id = new_id()
        entry = SnapshotEntry(plan, point_id, self._parts.repository.repository_id, self.chain.directory)
        journal = SnapshotJournal.open(self._context, connection.row.hypervisor_id, entry)
        try:
            created = time.time()
            snapshot = await connection.call(connection.hypervisor.take_snapshot, request, plan)
            self._context.log.info(f"snapshot of {len(snapshot.disks)} disks", machine=self._name)
            self._note_snapshot(snapshot)
            done, configuration = await self._disks.read(target, snapshot, base)
            self.totals = _sum(done.values())
            await connection.call(connection.hypervisor.confirm_snapshot, plan)
            point = self._point(point_id, created, snapshot, done, configuration)
            self.point = await self._commit(target, point, journal)
        finally:
            await asyncio.shield(self._release(plan, journal))

    async def _commit(self, target: TargetRun, point: Point, journal: SnapshotJournal) -> Point:
        journal.committing()
        try:
            committed = await target.commit(point)
        except VbrError:
            if target.lost is None:
                journal.refused()
                raise
            # The target died over the commit: the files know. ChainLocked leaves the entry to a later clean-up.
            found = await committed_point(
                self._context.storages, self._parts.repository, self.chain.directory, point.point_id
            )
            if found is None:
                journal.refused()
                raise
            committed = target.chain.opened(found)
        journal.committed()
        self._context.catalog.add_point(self._parts.repository.repository_id, self.chain.directory, committed)
        self._context.events.point_committed(committed)
        self._context.log.info(f"restore point {committed.point_id} committed ({committed.kind})", machine=self._name)
        return committed

    def _last_point(self, target: TargetRun) -> Point | None:
        """The newest committed point of this machine in the generation that is written, also one of this session."""
        points = [
            point
            for point in target.points
            if point.machine_id == self.machine.machine_id and point.point_id in target.base_point_ids
        ]
        return max(points, key=lambda point: point.sequence, default=None)

    def _note_snapshot(self, snapshot: Snapshot) -> None:
        for warning in snapshot.warnings:
            self._parts.warnings.add(warning, machine=self._name)
        for disk in snapshot.disks:
            if disk.full_reason:
                self._parts.warnings.add(f"compared in full: {disk.full_reason}", machine=self._name, disk=disk.name)

    async def _release(self, plan: SnapshotPlan, journal: SnapshotJournal) -> None:
        """Undo the snapshot. What cannot be undone now stays in the journal for the clean-up that follows."""
        connection = self._parts.connection
        committed = journal.outcome()
        if committed is None:
            self._parts.warnings.add("whether the point was committed is decided later", machine=self._name)
            return
        try:
            await connection.call(connection.hypervisor.release_snapshot, plan, committed=committed)
        except VbrError as error:
            self._parts.warnings.add(f"snapshot not released, tried again later: {error}", machine=self._name)
            return
        journal.done()
        self._context.log.info("snapshot released", machine=self._name)

    # --- the point ------------------------------------------------------------------------------

    def _point(
        self,
        point_id: str,
        created: float,
        snapshot: Snapshot,
        done: dict[str, DiskDone],
        configuration: bytes,
    ) -> Point:
        job = self._parts.job
        return Point(
            point_id=point_id,
            session_id=self._context.session.session_id,
            job_id=job.job_id,
            job_name=job.name,
            plugin=self._parts.connection.row.plugin,
            machine_id=self.machine.machine_id,
            machine=self.machine.name,
            kind="increment",
            created=created,
            sequence=0,
            disks=tuple(
                PointDisk(
                    disk_id=disk.disk_id,
                    name=disk.name,
                    size_bytes=done[disk.disk_id].size_bytes,
                    root=done[disk.disk_id].root,
                    change_id=disk.change_id,
                )
                for disk in snapshot.disks
            ),
            block_size_bytes=job.block_size_bytes,
            configuration=configuration,
            warnings=tuple(warning for one in done.values() for warning in one.warnings),
        )


def _sum(done: Iterable[DiskDone]) -> Totals:
    totals = Totals()
    for one in done:
        totals = totals.plus(one.totals)
    return totals


def _base_disks(point: Point | None) -> tuple[BaseDisk, ...]:
    if point is None:
        return ()
    return tuple(BaseDisk(disk.disk_id, disk.size_bytes, disk.change_id) for disk in point.disks if disk.change_id)
