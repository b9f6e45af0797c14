"""Sessions over points: restore of a disk or machine, verify, delete."""

import asyncio
import time
from collections.abc import Sequence

import msgspec

from vbrcore.api.types import PointDelete, RestoreDisk, RestoreMachine, Verify
from vbrcore.catalog.catalog import StoredPoint
from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.demands import chain_demand, read_demand
from vbrcore.manager.journal import RESTORE, RestoreEntry
from vbrcore.manager.report import Outcome
from vbrcore.manager.source import run_mover
from vbrcore.manager.target import Target
from vbrcore.model.errors import DataCorrupt, NotFound, ProtocolError, VbrError, error_from
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Repository
from vbrcore.model.point import PointDisk
from vbrcore.model.session import Task, Totals
from vbrcore.mover.messages import (
    Configuration,
    Failed,
    Log,
    ReadConfiguration,
    RestoreDone,
    RestoreWork,
    TargetWork,
)
from vbrcore.plugins import api
from vbrcore.restore.export import export_sink, stream_sink

_ATTEMPTS = 3


async def run_restore_disk(context: Context) -> Outcome:
    """Write one disk of a point to a file, or into the caller's stream."""
    request = msgspec.convert(context.session.request, RestoreDisk)
    stored = context.catalog.point(request.point)
    disk = _disk(stored, request.disk)
    if request.stream:
        sink = stream_sink(request.stream, request.stream_token, disk.size_bytes)
    else:
        sink = export_sink(request.output, request.format, disk.size_bytes)
    # A stream cannot be rewound and a new file is made exclusively: neither is tried again by itself.
    done = await _run_disks(context, stored, {disk.disk_id: sink}, attempts=1)
    return _outcome(stored, done, ())


async def run_verify(context: Context) -> Outcome:
    """Read every disk of a point: checksums of what is stored, with `deep` the digests of all blocks."""
    request = msgspec.convert(context.session.request, Verify)
    stored = context.catalog.point(request.point)
    sinks: dict[str, api.SinkSpec | None] = {disk.disk_id: None for disk in stored.point.disks}
    done = await _run_disks(context, stored, sinks, deep=request.deep)
    if stored.point.configuration:
        await _configuration(context, stored)
    return _outcome(stored, done, ())


async def run_restore_machine(context: Context) -> Outcome:
    """Make a whole machine on a hypervisor from a point; a failed one is removed again."""
    request = msgspec.convert(context.session.request, RestoreMachine)
    stored = context.catalog.point(request.point)
    warnings = Warnings(context.log)
    row = context.catalog.hypervisor_by_name(request.hypervisor)
    connection = await Connection.connect(row, context.catalog.hypervisor_secrets(row))
    try:
        wanted = api.RestoreRequest(
            name=request.name,
            configuration_plugin=stored.point.plugin,
            configuration=await _configuration(context, stored) if stored.point.configuration else b"",
            disks=tuple(api.RestoreDisk(disk.disk_id, disk.name, disk.size_bytes) for disk in stored.point.disks),
            options=request.options,
        )
        plan = await connection.call(connection.hypervisor.plan_restore, wanted)
        for element in plan.left_out:
            warnings.add(f"left out of the configuration: {element}", machine=request.name)
        entry = context.catalog.journal_add(
            context.session.session_id, row.hypervisor_id, RESTORE, msgspec.msgpack.encode(RestoreEntry(plan))
        )
        try:
            done = await _run_disks(context, stored, dict(plan.sinks), attempts=1)
            outcome = _outcome(stored, done, warnings.all())
            if outcome.error is not None:
                raise error_from(outcome.error)
            machine_id = await connection.call(connection.hypervisor.create_machine, wanted, plan)
        except BaseException:
            await asyncio.shield(connection.call(connection.hypervisor.remove_machine, plan))
            context.catalog.journal_done(entry)
            raise
        context.catalog.journal_done(entry)
        context.log.info(f"machine {request.name} restored as {machine_id}")
        if request.power_on:
            await connection.call(connection.hypervisor.power_on, machine_id)
            context.log.info(f"machine {request.name} started")
        return outcome
    finally:
        await connection.close()


async def run_delete(context: Context) -> Outcome:
    """Forget points: contents lists without them. Blocks that only they needed are given back by retention."""
    request = msgspec.convert(context.session.request, PointDelete)
    by_chain: dict[tuple[str, str], list[StoredPoint]] = {}
    for point_id in request.points:
        stored = context.catalog.point(point_id)
        by_chain.setdefault((stored.repository_id, stored.directory), []).append(stored)
    stored_bytes = 0
    for (repository_id, directory), points in by_chain.items():
        repository = context.catalog.repository(repository_id)
        await context.leases.acquire(chain_demand(context.session, repository, directory))
        stored_bytes += await _forget(context, repository, directory, points)
    return Outcome(totals=Totals(stored_bytes=stored_bytes))


async def _forget(context: Context, repository: Repository, directory: str, points: Sequence[StoredPoint]) -> int:
    first = points[0].point
    work = TargetWork(
        repository_path=repository.path,
        repository_id=repository.repository_id,
        reserve_bytes=repository.reserve_bytes,
        directory=directory,
        job_id=first.job_id,
        job_name=first.job_name,
        session_id=context.session.session_id,
        created=context.session.created,
        block_size_bytes=first.block_size_bytes,
        index_directory=str(context.home / "cache" / "index" / repository.repository_id),
    )
    target = Target(context.crew, work, context.log)
    try:
        run = await target.ready()
        await run.forget(tuple(stored.point.point_id for stored in points))
        await target.seal()
        gone = {stored.point.point_id for stored in points}
        left = tuple(point for point in run.points if point.point_id not in gone)
        context.catalog.replace_points(repository.repository_id, first.job_id, directory, left)
        return target.stored_bytes
    finally:
        await target.kill()


def _disk(stored: StoredPoint, name: str) -> PointDisk:
    for disk in stored.point.disks:
        if name in {disk.name, disk.disk_id}:
            return disk
    names = ", ".join(disk.name for disk in stored.point.disks)
    raise NotFound(f"point {stored.point.point_id} has no disk {name}; it has {names}")


async def _run_disks(
    context: Context,
    stored: StoredPoint,
    sinks: dict[str, api.SinkSpec] | dict[str, api.SinkSpec | None],
    *,
    deep: bool = False,
    attempts: int = _ATTEMPTS,
) -> dict[str, RestoreDone | VbrError]:
    """Run one restore mover per disk, side by side as slots allow; an error is that disk's result."""
    names = {disk.disk_id: disk for disk in stored.point.disks}
    tasks = {
        disk_id: Task(
            task_id=new_id(),
            session_id=context.session.session_id,
            machine=stored.point.machine,
            disk=names[disk_id].name,
            size_bytes=names[disk_id].size_bytes,
            created=time.time(),
        )
        for disk_id in sinks
    }
    context.catalog.add_tasks(list(tasks.values()))
    results = await asyncio.gather(
        *(
            _run_disk(context, stored, disk_id, tasks[disk_id], sink, deep=deep, attempts=attempts)
            for disk_id, sink in sinks.items()
        )
    )
    return dict(zip(sinks, results, strict=True))


async def _run_disk(
    context: Context,
    stored: StoredPoint,
    disk_id: str,
    task: Task,
    sink: api.SinkSpec | None,
    *,
    deep: bool,
    attempts: int,
) -> RestoreDone | VbrError:
    catalog = context.catalog
    repository = catalog.repository(stored.repository_id)
    work = RestoreWork(
        task_id=task.task_id,
        repository_path=repository.path,
        repository_id=repository.repository_id,
        directory=stored.directory,
        point_id=stored.point.point_id,
        disk_id=disk_id,
        sink=sink,
        deep=deep,
    )
    try:
        server = catalog.server_by_name(repository.server)
        await context.leases.acquire(read_demand(context.session, task, repository, server))
        try:
            done = await _attempts(context, task, work, attempts, server.name)
        finally:
            context.leases.release(task.task_id)
    except VbrError as error:
        catalog.update_task(task.task_id, state="failed", error=error.info(), reason="", ended=time.time())
        context.log.error(f"{error.code}: {error}", machine=task.machine, disk=task.disk, task_id=task.task_id)
        return error
    catalog.update_task(task.task_id, state="done", totals=done.totals, reason="", error=None, ended=time.time())
    return done


async def _attempts(context: Context, task: Task, work: RestoreWork, attempts: int, server: str) -> RestoreDone:
    for left in reversed(range(attempts)):
        context.catalog.update_task(
            task.task_id, state="running", reason="", server=server, attempt=attempts - left, started=time.time()
        )
        try:
            done = await _until_stopped(context, task, work)
        except VbrError as error:
            if not left or not error.retryable or context.stop.requested.is_set():
                raise
            context.log.warning(f"tried again: {error}", machine=task.machine, disk=task.disk, task_id=task.task_id)
        else:
            return done
    raise ProtocolError(f"{task.machine}/{task.disk}: no attempt left")


async def _until_stopped(context: Context, task: Task, work: RestoreWork) -> RestoreDone:
    """Run the mover; a request to stop ends it, because a restore is not half done gracefully."""
    running = asyncio.create_task(
        run_mover(
            context.crew,
            "restore",
            work,
            machine=task.machine,
            disk=task.disk,
            log=context.log,
            progress=lambda message: context.live.update(task.task_id, message),
        )
    )
    stopping = asyncio.create_task(context.stop.requested.wait())
    lost = asyncio.create_task(context.leases.lost.wait())
    try:
        await asyncio.wait((running, stopping, lost), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            context.stop.requested.set()
            context.stop.check()
        done = await running
    finally:
        stopping.cancel()
        lost.cancel()
    if not isinstance(done, RestoreDone):
        raise ProtocolError(f"{task.machine}/{task.disk}: the mover said {type(done).__name__} for a restore")
    return done


async def _configuration(context: Context, stored: StoredPoint) -> bytes:
    repository = context.catalog.repository(stored.repository_id)
    handle = await context.crew.start("restore", task_id="", disk=f"{stored.point.machine}/configuration")
    try:
        await handle.send(
            ReadConfiguration(
                repository_path=repository.path,
                repository_id=repository.repository_id,
                directory=stored.directory,
                point_id=stored.point.point_id,
            )
        )
        while True:
            match await handle.receive():
                case Configuration(data=data):
                    return data
                case Failed(error=error):
                    raise error_from(error)
                case Log(level=level, message=text):
                    context.log.write(level, text, kind="mover", pid=handle.pid)
                case _:
                    continue
    finally:
        await handle.kill()


def _outcome(stored: StoredPoint, done: dict[str, RestoreDone | VbrError], warnings: tuple[str, ...]) -> Outcome:
    """Sum up; damaged ranges are a failure of their own that names disk and ranges."""
    totals = Totals()
    errors: list[VbrError] = []
    names = {disk.disk_id: disk.name for disk in stored.point.disks}
    for disk_id, result in done.items():
        if isinstance(result, VbrError):
            errors.append(result)
            continue
        totals = totals.plus(result.totals)
        if result.damaged:
            ranges = ", ".join(f"{offset}+{length}" for offset, length in result.damaged[:16])
            errors.append(
                DataCorrupt(
                    f"{stored.point.machine}/{names[disk_id]}: {len(result.damaged)} damaged ranges"
                    f" (offset+bytes): {ranges}"
                )
            )
    return Outcome(
        totals=totals,
        warnings=warnings,
        error=errors[0].info() if errors else None,
        failures=len(errors),
    )
