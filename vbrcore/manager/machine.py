"""One machine of a backup session: snapshot, its disks, the commit of its point, the release."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from vbrcore.balancer.demand import Demand
from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings, pause
from vbrcore.manager.demands import disk_demand, further_disk_demand
from vbrcore.manager.journal import SnapshotEntry, SnapshotJournal
from vbrcore.manager.outcome import committed_point
from vbrcore.manager.source import run_mover
from vbrcore.manager.target import Target, TargetRun
from vbrcore.model.errors import InvalidValue, MoverLost, SessionStopped, VbrError, info_of
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine, Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.session import Task, Totals
from vbrcore.mover.messages import DiskDone, Endpoint, SourceWork
from vbrcore.plugins.api import BaseDisk, DiskSource, Snapshot, SnapshotPlan, SnapshotRequest

DISK_ATTEMPTS = 3  # DESIGN 4.6: a failed disk is tried again twice while the snapshot is open
MACHINE_RETRY_WAITS_S = (5.0, 15.0, 45.0)  # DESIGN 4.6
CONFIGURATION = "configuration"
NO_ENDPOINT = Endpoint(path="", secret=b"")  # each attempt gets its own


class JobParts(msgspec.Struct, frozen=True):
    """What all machines of the session share."""

    job: Job
    repository: Repository
    proxies: tuple[Server, ...]
    repository_server: Server
    directory: str
    connection: Connection
    target: Target
    warnings: Warnings


class MachineBackup:
    """Backs up one machine; `error` is None when its point is committed."""

    def __init__(self, context: Context, parts: JobParts, machine: Machine, tasks: Sequence[Task]) -> None:
        self.machine = machine
        self.error: VbrError | None = None
        self.totals = Totals()
        self.point: Point | None = None
        self._context = context
        self._parts = parts
        self._tasks = {task.disk: task for task in tasks}
        self._attempts: dict[str, int] = {}

    @property
    def _name(self) -> str:
        return self.machine.name

    async def run(self) -> None:
        """Try the machine, and again as a whole after a failure that retrying can mend. Raises nothing expected."""
        log = self._context.log
        for attempt in range(1 + self._parts.job.machine_retries):
            try:
                await self._attempt(attempt)
            except VbrError as error:
                self.error = error
                log.error(f"attempt {attempt + 1}: {error.code}: {error}", machine=self._name)
                if not self._try_again(error, attempt):
                    break
                wait_s = MACHINE_RETRY_WAITS_S[min(attempt, len(MACHINE_RETRY_WAITS_S) - 1)]
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
        return error.retryable and not stopped and attempt < self._parts.job.machine_retries

    def _reset_tasks(self, reason: str) -> None:
        for task in self._tasks.values():
            self._context.catalog.update_task(task.task_id, state="pending", reason=reason)

    def _close_tasks(self) -> None:
        """Give the tasks that did not fail themselves the machine's error: no task of a failed machine is done."""
        skipped = isinstance(self.error, SessionStopped)
        error = None if skipped or self.error is None else info_of(self.error)
        for task in self._tasks.values():
            self._context.catalog.update_task(
                task.task_id,
                state="skipped" if skipped else "failed",
                reason="session_stopped" if skipped else "",
                error=error,
                ended=time.time(),
            )

    # --- one attempt ----------------------------------------------------------------------------

    async def _attempt(self, attempt: int) -> None:
        self._context.stop.check()
        target = await self._parts.target.ready()
        first = self._first_demand()
        scope = self._machine_scope
        try:
            grant = await self._context.leases.acquire(first) if first is not None else None
            self._context.stop.check()
            await self._with_snapshot(target, attempt, first_server=grant.server if grant is not None else "")
        finally:
            for task in self._tasks.values():
                self._context.leases.release(task.task_id)
            self._context.leases.release(scope)

    @property
    def _machine_scope(self) -> str:
        return f"machine:{self.machine.machine_id}"

    def _first_demand(self) -> Demand | None:
        """The first disk takes the machine, its datastores' places and its own slots in one transaction."""
        first = next(iter(self._disk_tasks()), None)
        if first is None:
            return None
        return disk_demand(
            self._context.session,
            first,
            self.machine,
            scope=self._machine_scope,
            hypervisor=self._parts.connection.row,
            modes=self._modes(),
            repository=self._parts.repository,
            repository_server=self._parts.repository_server,
        )

    def _modes(self) -> tuple[tuple[Server, str], ...]:
        """Proxies that can read this machine, best transport mode first."""
        pairs = [
            (place, server, mode)
            for server in self._parts.proxies
            for place, mode in enumerate(self._parts.connection.plugin.transport_modes(self.machine, server.name))
        ]
        return tuple((server, mode) for _, server, mode in sorted(pairs, key=lambda pair: (pair[0], pair[1].name)))

    def _disk_tasks(self) -> list[Task]:
        return [task for name, task in self._tasks.items() if name != CONFIGURATION]

    async def _with_snapshot(self, target: TargetRun, attempt: int, *, first_server: str) -> None:
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
        entry = SnapshotEntry(plan, point_id, self._parts.repository.repository_id, self._parts.directory)
        journal = SnapshotJournal.open(self._context, connection.row.hypervisor_id, entry)
        try:
            created = time.time()
            snapshot = await connection.call(connection.hypervisor.take_snapshot, request, plan)
            self._note_snapshot(snapshot)
            done, configuration = await self._read(target, snapshot, base, first_server)
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
            found = await committed_point(self._parts.repository, self._parts.directory, point.point_id)
            if found is None:
                journal.refused()
                raise
            committed = found
        journal.committed()
        self._context.catalog.add_point(self._parts.repository.repository_id, self._parts.directory, committed)
        self._context.log.info(f"restore point {committed.point_id} committed ({committed.kind})", machine=self._name)
        return committed

    def _last_point(self, target: TargetRun) -> Point | None:
        """The newest committed point of this machine, also one that this session has just made."""
        points = [point for point in target.points if point.machine_id == self.machine.machine_id]
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

    # --- the disks ------------------------------------------------------------------------------

    async def _read(
        self, target: TargetRun, snapshot: Snapshot, base: Point | None, first_server: str
    ) -> tuple[dict[str, DiskDone], bytes]:
        previous = {disk.disk_id: disk for disk in base.disks} if base is not None else {}
        granted = {next(iter(self._disk_tasks())).disk: first_server} if first_server else {}
        try:
            async with asyncio.TaskGroup() as group:
                reads = {
                    disk.disk_id: group.create_task(
                        self._read_disk(target, disk, previous.get(disk.disk_id), granted.get(disk.name))
                    )
                    for disk in snapshot.disks
                }
                configuration = (
                    group.create_task(self._read_configuration(target, snapshot))
                    if snapshot.configuration is not None
                    else None
                )
        except BaseExceptionGroup as group_error:
            raise _first_cause(group_error) from group_error
        done = {disk_id: read.result() for disk_id, read in reads.items()}
        for one in done.values():
            self.totals = self.totals.plus(one.totals)
        return done, configuration.result().root if configuration is not None else b""

    async def _read_disk(
        self, target: TargetRun, disk: DiskSource, previous: PointDisk | None, granted_server: str | None
    ) -> DiskDone:
        task = self._tasks.get(disk.name)
        if task is None:
            raise InvalidValue(f"{self._name}: the snapshot has a disk {disk.name} that the inventory does not have")
        if granted_server is None:
            demand = further_disk_demand(
                self._context.session,
                task,
                modes=self._modes(),
                repository=self._parts.repository,
                repository_server=self._parts.repository_server,
            )
            granted_server = (await self._context.leases.acquire(demand)).server
        job = self._parts.job
        known = previous if previous is not None else PointDisk(disk.disk_id, disk.name, 0, b"")
        work = SourceWork(
            task_id=task.task_id,
            kind="disk",
            source=disk.source,
            endpoint=NO_ENDPOINT,
            size_bytes=disk.size_bytes,
            since=disk.since,
            previous_root=known.root,
            previous_size_bytes=known.size_bytes,
            block_size_bytes=job.block_size_bytes,
            compression=job.compression,
            damaged=target.ready.damaged,
            audit_seed=len(target.points),
        )
        try:
            done = await self._tried_again(target, task, work, server=granted_server)
        finally:
            self._context.leases.release(task.task_id)
        for warning in done.warnings:
            self._parts.warnings.add(warning, machine=self._name, disk=disk.name)
        return done

    async def _read_configuration(self, target: TargetRun, snapshot: Snapshot) -> DiskDone:
        task = self._tasks[CONFIGURATION]
        if snapshot.configuration is None:
            raise InvalidValue(f"{self._name}: no configuration to read")
        work = SourceWork(
            task_id=task.task_id,
            kind="configuration",
            source=snapshot.configuration,
            endpoint=NO_ENDPOINT,
            block_size_bytes=self._parts.job.block_size_bytes,
            compression=self._parts.job.compression,
        )
        return await self._tried_again(target, task, work, server="")

    async def _tried_again(self, target: TargetRun, task: Task, work: SourceWork, *, server: str) -> DiskDone:
        context = self._context
        for left in reversed(range(DISK_ATTEMPTS)):
            attempt = self._attempts[task.task_id] = self._attempts.get(task.task_id, 0) + 1
            work = msgspec.structs.replace(work, endpoint=await target.expect(task.task_id, attempt))
            context.catalog.update_task(
                task.task_id, state="running", reason="", server=server, attempt=attempt, started=time.time()
            )
            try:
                done = await run_mover(
                    context.crew,
                    "source",
                    work,
                    machine=self._name,
                    disk=task.disk,
                    log=context.log,
                    progress=lambda message: context.live.update(task.task_id, message),
                )
            except VbrError as error:
                error = target.lost or error
                context.log.error(f"{error.code}: {error}", machine=self._name, disk=task.disk, task_id=task.task_id)
                context.catalog.update_task(task.task_id, state="pending", reason=error.code, error=error.info())
                if not left or not error.retryable or target.lost is not None or context.stop.now.is_set():
                    raise error from error.__cause__
            else:
                if not isinstance(done, DiskDone):
                    raise MoverLost(f"{self._name}/{task.disk}: the mover ended without a result")
                context.catalog.update_task(
                    task.task_id, state="done", reason="", error=None, totals=done.totals, ended=time.time()
                )
                return done
        raise MoverLost(f"{self._name}/{task.disk}: no attempt left")

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


def _base_disks(point: Point | None) -> tuple[BaseDisk, ...]:
    if point is None:
        return ()
    return tuple(BaseDisk(disk.disk_id, disk.size_bytes, disk.change_id) for disk in point.disks if disk.change_id)


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the expected error of a group, else whatever ended it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first_cause(error)
        if isinstance(error, VbrError):
            return error
    return group.exceptions[0]
