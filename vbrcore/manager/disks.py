"""The disks of one machine while its snapshot is open: slots, source movers, attempts."""

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence

import msgspec

from vbrcore.balancer.candidates import Candidates, why_taken, without
from vbrcore.balancer.demand import Grant
from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.crew import NOT_REACHED
from vbrcore.manager.demands import class_of, disk_demand, further_disk_demand
from vbrcore.manager.gate import Gate
from vbrcore.manager.placement import Placement
from vbrcore.manager.sending import send_disk
from vbrcore.manager.target import TargetRun
from vbrcore.model.errors import (
    InvalidValue,
    MoverLost,
    NoDataAddress,
    NoRoute,
    ServerUnsuitable,
    VbrError,
    WheelsMissing,
)
from vbrcore.model.inventory import LOCAL_SERVER, Machine, Repository
from vbrcore.model.job import Job
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.session import Task
from vbrcore.mover.messages import NO_ENDPOINT, DiskDone, SourceWork
from vbrcore.plugins.api import DiskSource, Snapshot

DISK_ATTEMPTS = 3  # DESIGN 4.6: a failed disk is tried again twice while the snapshot is open
CONFIGURATION = "configuration"
# What is wrong with one server may be right with another one.
OF_THE_SERVER = (*NOT_REACHED, ServerUnsuitable, WheelsMissing, NoRoute, NoDataAddress)


class JobParts(msgspec.Struct, frozen=True):
    """What all machines of the session share. `times_s`: how long each (machine, disk) took in the last session."""

    job: Job
    repository: Repository
    placement: Placement
    times_s: Mapping[tuple[str, str], float]
    connection: Connection
    warnings: Warnings
    gate: Gate


class MachineDisks:
    """`acquire_first` before the snapshot, `read` while it is open, `release` in any case."""

    def __init__(self, context: Context, parts: JobParts, machine: Machine, tasks: Sequence[Task]) -> None:
        self._context = context
        self._parts = parts
        self._machine = machine
        self._tasks = {task.disk: task for task in tasks}
        self._attempts: dict[str, int] = {}
        self._found: Candidates | None = None
        self._first: tuple[str, Grant] | None = None  # its task id, and what it was granted before the snapshot

    @property
    def _name(self) -> str:
        return self._machine.name

    async def acquire_first(self) -> None:
        """Take the machine, its datastores' places and the first disk's own slots in one transaction."""
        disks = [task for name, task in self._tasks.items() if name != CONFIGURATION]
        if not disks:
            return
        first = max(disks, key=lambda task: (self._time_s(task), task.size_bytes))
        demand = disk_demand(
            self._context.session,
            first,
            self._machine,
            class_rank=class_of(self._parts.job, self._context.session),
            scope=self._machine_scope,
            hypervisor=self._parts.connection.row,
            found=self._candidates(),
            repository=self._parts.repository,
            expected_s=self._time_s(first),
            wait_for_best=self._parts.job.wait_for_best,
        )
        self._first = first.task_id, await self._context.leases.acquire(demand)

    def release(self) -> None:
        """Give back all slots, then the machine."""
        for task in self._tasks.values():
            self._context.leases.release(task.task_id)
        self._context.leases.release(self._machine_scope)

    @property
    def _machine_scope(self) -> str:
        return f"machine:{self._machine.machine_id}"

    def _candidates(self) -> Candidates:
        """Return the proxies that can read this machine. Raises `CanNeverRun`."""
        if self._found is None:
            self._found = self._parts.placement.of(self._machine)
        return self._found

    def _time_s(self, task: Task) -> float:
        """Return how long a disk took last time; 0: that is not known."""
        return self._parts.times_s.get((task.machine, task.disk), 0.0)

    async def read(
        self, target: TargetRun, snapshot: Snapshot, base: Point | None
    ) -> tuple[dict[str, DiskDone], bytes]:
        """Read all disks side by side, as slots allow; return what was done by disk id, and the configuration's digest.

        The first failure ends the others: a point is one moment of all disks.
        """
        previous = {disk.disk_id: disk for disk in base.disks} if base is not None else {}
        try:
            async with asyncio.TaskGroup() as group:
                reads = {
                    disk.disk_id: group.create_task(self._read_disk(target, disk, previous.get(disk.disk_id)))
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
        return done, configuration.result().root if configuration is not None else b""

    async def _read_disk(self, target: TargetRun, disk: DiskSource, previous: PointDisk | None) -> DiskDone:
        task = self._tasks.get(disk.name)
        if task is None:
            raise InvalidValue(f"{self._name}: the snapshot has a disk {disk.name} that the inventory does not have")
        grant = await self._granted(task)
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
            secret=target.chain.secret,
        )
        try:
            done = await self._tried_again(target, task, work, grant, disk)
        finally:
            self._context.leases.release(task.task_id)
        for warning in done.warnings:
            self._parts.warnings.add(warning, machine=self._name, disk=disk.name)
        return done

    async def _granted(self, task: Task, failed: Collection[str] = ()) -> Grant:
        """Return what was granted to a disk; the first one has its grant from before the snapshot.

        `failed`: servers where an attempt failed; they are asked again only where there is no other one.
        """
        if not failed and self._first is not None and self._first[0] == task.task_id:
            return self._first[1]
        found = without(self._candidates(), failed)
        demand = further_disk_demand(
            self._context.session,
            task,
            found=found,
            repository=self._parts.repository,
            expected_s=self._time_s(task),
            wait_for_best=self._parts.job.wait_for_best,
        )
        return await self._context.leases.acquire(demand)

    def _is_elsewhere(self, failed: Collection[str]) -> bool:
        """Return whether there is a proxy where no attempt failed."""
        return any(choice.server not in failed for choice in self._candidates().choices)

    async def _read_configuration(self, target: TargetRun, snapshot: Snapshot) -> DiskDone:
        task = self._tasks[CONFIGURATION]
        source = snapshot.configuration
        if source is None:
            raise InvalidValue(f"{self._name}: no configuration to read")
        server = LOCAL_SERVER
        on_host, host = snapshot.configuration_on_host, self._parts.connection.row.server
        if on_host is not None and self._first is not None and self._first[1].server == host:
            source, server = on_host, host
        work = SourceWork(
            task_id=task.task_id,
            kind="configuration",
            source=source,
            endpoint=NO_ENDPOINT,
            block_size_bytes=self._parts.job.block_size_bytes,
            compression=self._parts.job.compression,
            secret=target.chain.secret,
        )
        return await self._tried_again(target, task, work, server=server)

    async def _tried_again(
        self,
        target: TargetRun,
        task: Task,
        work: SourceWork,
        grant: Grant | None = None,
        disk: DiskSource | None = None,
        *,
        server: str = LOCAL_SERVER,
    ) -> DiskDone:
        """Read with what was granted, on `server` what needs no grant; after a failure elsewhere, if that may help."""
        context = self._context
        failed = set[str]()
        for left in reversed(range(DISK_ATTEMPTS)):
            attempt = self._attempts[task.task_id] = self._attempts.get(task.task_id, 0) + 1
            context.catalog.update_task(
                task.task_id,
                state="running",
                reason="",
                attempt=attempt,
                started=time.time(),
                **self._way(grant),
            )
            try:
                where = context.catalog.server_by_name(grant.server if grant is not None else server)
                source = work.source if disk is None or grant is None else disk.source_for(grant.mode)
                done = await send_disk(
                    context,
                    target,
                    msgspec.structs.replace(work, source=source),
                    between=(where, self._parts.placement.beside),
                    attempt=attempt,
                    machine=self._name,
                    disk=task.disk,
                )
            except VbrError as error:
                context.log.error(f"{error.code}: {error}", machine=self._name, disk=task.disk, task_id=task.task_id)
                context.catalog.update_task(task.task_id, state="pending", reason=error.code, error=error.info())
                if not left or target.lost is not None or context.stop.now.is_set():
                    raise error from error.__cause__
                if grant is not None:
                    failed.add(grant.server)
                if not (error.retryable or (isinstance(error, OF_THE_SERVER) and self._is_elsewhere(failed))):
                    raise error from error.__cause__
                if grant is not None and self._is_elsewhere(failed):
                    context.leases.release(task.task_id)
                    grant = await self._granted(task, failed)
            else:
                totals = done.totals
                context.log.info(
                    f"read {totals.read_bytes}, audited {totals.audit_bytes},"
                    f" transferred {totals.transferred_bytes} bytes",
                    machine=self._name,
                    disk=task.disk,
                    task_id=task.task_id,
                )
                context.catalog.update_task(
                    task.task_id, state="done", reason="", error=None, totals=done.totals, ended=time.time()
                )
                return done
        raise MoverLost(f"{self._name}/{task.disk}: no attempt left")

    def _way(self, grant: Grant | None) -> dict[str, str]:
        """Return where and how a task is done, and why there, as fields of its row."""
        if grant is None:
            return {}
        return {
            "server": grant.server,
            "mode": grant.mode,
            "why": why_taken(self._candidates().choices, grant),
        }


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the expected error of a group, else whatever ended it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first_cause(error)
        if isinstance(error, VbrError):
            return error
    return group.exceptions[0]
