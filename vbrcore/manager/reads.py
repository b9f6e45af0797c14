"""Restore movers over the disks of a point: one per disk, side by side as slots allow."""

import asyncio
import time

import msgspec

from vbrcore.catalog.catalog import StoredPoint
from vbrcore.manager.context import Context
from vbrcore.manager.demands import read_demand
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.sinking import far_sink
from vbrcore.manager.source import Peer, run_mover
from vbrcore.model.errors import ProtocolError, VbrError, error_from
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import LOCAL_SERVER
from vbrcore.model.session import Task
from vbrcore.mover.messages import (
    Configuration,
    DiskDone,
    Ended,
    Examined,
    ExamineWork,
    Failed,
    KeyWanted,
    Log,
    ReadConfiguration,
    RestoreDone,
    RestoreWork,
    UseKey,
)
from vbrcore.plugins import api

_ATTEMPTS = 3


async def run_disks(
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
    keys = RepositoryKeys(context.catalog, stored.repository_id)
    results = await asyncio.gather(
        *(
            _run_disk(context, stored, disk_id, tasks[disk_id], sink, keys=keys, deep=deep, attempts=attempts)
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
    keys: RepositoryKeys,
    deep: bool,
    attempts: int,
) -> RestoreDone | VbrError:
    catalog = context.catalog
    try:
        repository = await context.gateways.repository(stored.repository_id)
    except VbrError as error:
        return _failed(context, task, error)
    work = RestoreWork(
        task_id=task.task_id,
        place=catalog.place(repository),
        repository_id=repository.repository_id,
        directory=stored.directory,
        point_id=stored.point.point_id,
        disk_id=disk_id,
        sink=sink,
        deep=deep,
        disk_number=[disk.disk_id for disk in stored.point.disks].index(disk_id),
        encrypted=keys.encrypted,
    )
    try:
        server = catalog.server_by_name(repository.server)
        await context.leases.acquire(read_demand(context.session, task, repository, server))
        try:
            done = await _attempts(context, task, work, keys, attempts=attempts, server=server.name)
        finally:
            context.leases.release(task.task_id)
    except VbrError as error:
        return _failed(context, task, error)
    catalog.update_task(task.task_id, state="done", totals=done.totals, reason="", error=None, ended=time.time())
    return done


def _failed(context: Context, task: Task, error: VbrError) -> VbrError:
    context.catalog.update_task(task.task_id, state="failed", error=error.info(), reason="", ended=time.time())
    context.log.error(f"{error.code}: {error}", machine=task.machine, disk=task.disk, task_id=task.task_id)
    return error


async def _attempts(
    context: Context, task: Task, work: RestoreWork, keys: RepositoryKeys, *, attempts: int, server: str
) -> RestoreDone:
    for left in reversed(range(attempts)):
        context.catalog.update_task(
            task.task_id, state="running", reason="", server=server, attempt=attempts - left, started=time.time()
        )
        try:
            done = await until_stopped(context, task, work, keys, server=server)
        except VbrError as error:
            if not left or not error.retryable or context.stop.requested.is_set():
                raise
            context.log.warning(f"tried again: {error}", machine=task.machine, disk=task.disk, task_id=task.task_id)
        else:
            if not isinstance(done, RestoreDone):
                raise ProtocolError(f"{task.machine}/{task.disk}: the mover said {type(done).__name__} for a restore")
            return done
    raise ProtocolError(f"{task.machine}/{task.disk}: no attempt left")


async def _with_sink(
    context: Context, task: Task, work: RestoreWork | ExamineWork, keys: RepositoryKeys, server: str
) -> DiskDone | RestoreDone | Examined:
    """Run the mover beside the repository; a sink that belongs to this machine is opened here."""

    async def run(work: RestoreWork | ExamineWork, peer: Peer | None = None) -> DiskDone | RestoreDone | Examined:
        return await run_mover(
            context.crew,
            "restore",
            work,
            server=server,
            machine=task.machine,
            disk=task.disk,
            log=context.log,
            progress=lambda message: context.live.update(task.task_id, message),
            keys=keys,
            target=peer,
        )

    spec = work.sink if isinstance(work, RestoreWork) else None
    if spec is None or spec.anywhere or server == LOCAL_SERVER:
        return await run(work)
    async with far_sink(context, task, spec, repository_server=server) as sink:
        return await run(msgspec.structs.replace(work, sink=None, endpoint=sink.endpoint), sink)


async def until_stopped(
    context: Context, task: Task, work: RestoreWork | ExamineWork, keys: RepositoryKeys, *, server: str
) -> DiskDone | RestoreDone | Examined:
    """Run the mover; a request to stop ends it, because a restore is not half done gracefully."""
    running = asyncio.create_task(_with_sink(context, task, work, keys, server))
    stopping = asyncio.create_task(context.stop.requested.wait())
    lost = asyncio.create_task(context.leases.lost.wait())
    try:
        await asyncio.wait((running, stopping, lost), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            context.stop.requested.set()
            context.stop.check()
        return await running
    finally:
        stopping.cancel()
        lost.cancel()


async def read_configuration(context: Context, stored: StoredPoint, *, as_stored: bool = False) -> bytes:
    """Return what was kept of a machine with its point, at most 64 MiB. Raises what the mover says.

    With `as_stored`, one that is encrypted is only checked, without its key, and nothing is returned.
    """
    keys = RepositoryKeys(context.catalog, stored.repository_id)
    repository = await context.gateways.repository(stored.repository_id)
    handle = await context.crew.start(
        "restore", task_id="", disk=f"{stored.point.machine}/configuration", server=repository.server
    )
    try:
        await handle.send(
            ReadConfiguration(
                place=context.catalog.place(repository),
                repository_id=repository.repository_id,
                directory=stored.directory,
                point_id=stored.point.point_id,
                as_stored=as_stored,
                encrypted=keys.encrypted,
            )
        )
        parts: list[bytes] = []
        while True:
            match await handle.receive():
                case KeyWanted(chain_id=chain_id, key_slots=key_slots):
                    await handle.send(UseKey(await keys.secret(chain_id, key_slots)))
                case Configuration(data=data):
                    parts.append(data)
                case Ended():
                    return b"".join(parts)
                case Failed(error=error):
                    raise error_from(error)
                case Log(time=at, level=level, message=text):
                    context.log.write(level, text, **handle.said(at))
                case _:
                    continue
    finally:
        await handle.kill()
