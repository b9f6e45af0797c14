"""The disks of one machine while its snapshot is open: slots, source movers, attempts."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.crew import LOCAL
from vbrcore.manager.demands import class_of, disk_demand, further_disk_demand
from vbrcore.manager.gate import Gate
from vbrcore.manager.source import run_mover
from vbrcore.manager.target import TargetRun
from vbrcore.model.errors import CanNeverRun, InvalidValue, MoverLost, VbrError
from vbrcore.model.inventory import Machine, Repository, Server
from vbrcore.model.job import Job
from vbrcore.model.point import Point, PointDisk
from vbrcore.model.routes import data_route
from vbrcore.model.session import Task
from vbrcore.mover.messages import DiskDone, Endpoint, SourceWork
from vbrcore.plugins.api import DiskSource, Snapshot

DISK_ATTEMPTS = 3  # DESIGN 4.6: a failed disk is tried again twice while the snapshot is open
CONFIGURATION = "configuration"
NO_ENDPOINT = Endpoint(path="", secret=b"")  # each attempt gets its own


class JobParts(msgspec.Struct, frozen=True):
    """What all machines of the session share."""

    job: Job
    repository: Repository
    proxies: tuple[Server, ...]
    repository_server: Server
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
        self._first_task_id = ""
        self._first_server = ""

    @property
    def _name(self) -> str:
        return self._machine.name

    async def acquire_first(self) -> None:
        """Take the machine, its datastores' places and the first disk's own slots in one transaction."""
        first = next((task for name, task in self._tasks.items() if name != CONFIGURATION), None)
        if first is None:
            return
        demand = disk_demand(
            self._context.session,
            first,
            self._machine,
            class_rank=class_of(self._parts.job),
            scope=self._machine_scope,
            hypervisor=self._parts.connection.row,
            modes=self._modes(),
            repository=self._parts.repository,
            repository_server=self._parts.repository_server,
        )
        grant = await self._context.leases.acquire(demand)
        self._first_task_id, self._first_server = first.task_id, grant.server

    def release(self) -> None:
        """Give back all slots, then the machine."""
        for task in self._tasks.values():
            self._context.leases.release(task.task_id)
        self._context.leases.release(self._machine_scope)

    @property
    def _machine_scope(self) -> str:
        return f"machine:{self._machine.machine_id}"

    def _modes(self) -> tuple[tuple[Server, str], ...]:
        """Proxies that can read this machine, best transport mode first."""
        pairs = [
            (place, server, mode)
            for server in self._parts.proxies
            for place, mode in enumerate(self._parts.connection.plugin.transport_modes(self._machine, server.name))
        ]
        if not pairs:
            raise CanNeverRun(f"no proxy can read the disks of {self._name}")
        return tuple((server, mode) for _, server, mode in sorted(pairs, key=lambda pair: (pair[0], pair[1].name)))

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
        server = await self._server_for(task)
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
            done = await self._tried_again(target, task, work, server=server)
        finally:
            self._context.leases.release(task.task_id)
        for warning in done.warnings:
            self._parts.warnings.add(warning, machine=self._name, disk=disk.name)
        return done

    async def _server_for(self, task: Task) -> str:
        """Return the proxy that was granted to this disk; the first one has its grant from before the snapshot."""
        if task.task_id == self._first_task_id:
            return self._first_server
        demand = further_disk_demand(
            self._context.session,
            task,
            modes=self._modes(),
            repository=self._parts.repository,
            repository_server=self._parts.repository_server,
        )
        return (await self._context.leases.acquire(demand)).server

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
            secret=target.chain.secret,
        )
        return await self._tried_again(target, task, work, server="")

    async def _tried_again(self, target: TargetRun, task: Task, work: SourceWork, *, server: str) -> DiskDone:
        context = self._context
        source = context.catalog.server_by_name(server or LOCAL)
        route = data_route(source, self._parts.repository_server)
        for left in reversed(range(DISK_ATTEMPTS)):
            attempt = self._attempts[task.task_id] = self._attempts.get(task.task_id, 0) + 1
            context.catalog.update_task(
                task.task_id, state="running", reason="", server=server, attempt=attempt, started=time.time()
            )
            try:
                endpoint = await target.expect(task.task_id, attempt, route)
                done = await run_mover(
                    context.crew,
                    "source",
                    msgspec.structs.replace(work, endpoint=endpoint),
                    machine=self._name,
                    disk=task.disk,
                    log=context.log,
                    progress=lambda message: context.live.update(task.task_id, message),
                    target=target,
                )
            except VbrError as error:
                await target.void(task.task_id)
                error = target.lost or error
                context.log.error(f"{error.code}: {error}", machine=self._name, disk=task.disk, task_id=task.task_id)
                context.catalog.update_task(task.task_id, state="pending", reason=error.code, error=error.info())
                if not left or not error.retryable or target.lost is not None or context.stop.now.is_set():
                    raise error from error.__cause__
            else:
                if not isinstance(done, DiskDone):
                    raise MoverLost(f"{self._name}/{task.disk}: the mover ended without a result")
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


def _first_cause(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the expected error of a group, else whatever ended it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            return _first_cause(error)
        if isinstance(error, VbrError):
            return error
    return group.exceptions[0]
