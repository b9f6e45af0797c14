"""A backup session: which machines, one task per disk, all machines side by side, then the seal."""

import asyncio
import time
import traceback
from collections.abc import Iterable, Sequence

from vbrcore.catalog.clock import read_clock
from vbrcore.manager.chains import chain_of, target_work
from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings, pause
from vbrcore.manager.demands import chain_demand
from vbrcore.manager.disks import CONFIGURATION, JobParts
from vbrcore.manager.health import Place, report_losses
from vbrcore.manager.keys import RepositoryKeys
from vbrcore.manager.machine import RETRY_WAITS_S, MachineBackup
from vbrcore.manager.report import Outcome
from vbrcore.manager.retention import apply_retention, newest_of
from vbrcore.manager.selection import Selection, select
from vbrcore.manager.target import Target, TargetRun
from vbrcore.model.errors import LeaseLost, MachineNotFound, RepositoryNotMounted, SessionStopped, VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine
from vbrcore.model.session import Task, Totals


async def run_backup(context: Context) -> Outcome:
    """Run a session of kind `backup`. Raises what keeps the session as a whole from running."""
    catalog, session, log = context.catalog, context.session, context.log
    job = catalog.job(session.job_id)
    repository = catalog.repository(job.repository_id)
    hypervisor = catalog.hypervisor(job.hypervisor_id)
    keys = RepositoryKeys(catalog, repository.repository_id)
    warnings = Warnings(log)
    chain = chain_of(job, encrypted=keys.encrypted)
    work = target_work(context, repository, chain, new_generation=session.request.get("full") == "active")
    directory = chain.directory
    target = Target(context.crew, work, log, keys)
    connecting = asyncio.create_task(Connection.connect(hypervisor, catalog.hypervisor_secrets(hypervisor)))
    starting = asyncio.create_task(context.crew.transport())
    try:
        await context.leases.acquire(chain_demand(session, repository, directory))
        catalog.update_session(session.session_id, state="running")
        (connection, inventory), run = await asyncio.gather(_inventory(connecting), _first_target(context, target))
        log.info(f"{len(inventory)} machines in the inventory; target mover holds the chain, {len(run.points)} points")
        for warning in run.warnings:  # files of the chain that are missing or unreadable
            warnings.add(warning)
        catalog.replace_points(repository.repository_id, job.job_id, directory, run.points)
        newest_before = newest_of(run)
        selection = select(job, inventory, {point.machine for point in run.points})
        parts = JobParts(
            job=job,
            repository=repository,
            proxies=catalog.proxies(),
            repository_server=catalog.server_by_name(repository.server),
            directory=directory,
            connection=connection,
            target=target,
            warnings=warnings,
        )
        machines = [
            MachineBackup(context, parts, machine, _tasks(context, connection, machine, warnings))
            for machine in selection.machines
        ]
        failures = _selection_failures(context, selection, warnings)
        await _run_all(context, machines)
        if any(machine.point is not None for machine in machines):
            await _retain(context, parts, inventory, newest_before)
        await target.seal()
        log.info("backup file sealed")
        await report_losses(context, job, Place(repository, directory), target.running, warnings)
        return _outcome(machines, failures, target, warnings)
    finally:
        await target.kill()
        connected, _ = await asyncio.gather(connecting, starting, return_exceptions=True)
        if isinstance(connected, Connection):
            await connected.close()


async def _retain(context: Context, parts: JobParts, inventory: Sequence[Machine], newest_before: float | None) -> None:
    """Let go of what the policy does not keep. What fails here takes nothing from the points that were made."""
    run = parts.target.running
    if run is None or run.lost is not None or context.stop.requested.is_set() or context.leases.lost.is_set():
        return
    clock = read_clock()
    doubt = context.catalog.clock_doubt(clock, newest_before)
    present = frozenset(machine.machine_id for machine in inventory)
    try:
        await apply_retention(context, parts.job, run, parts.warnings, present=present, doubt=doubt)
    except VbrError as error:
        parts.warnings.add(f"retention was not applied, the next session does it: {error}")
        return
    context.catalog.replace_points(parts.repository.repository_id, parts.job.job_id, parts.directory, run.points)
    if not doubt:
        context.catalog.set_clock_seen(clock)


async def _first_target(context: Context, target: Target) -> TargetRun:
    """Start the target mover; a chain that a lost writer still holds, and a mover that dies, are tried again."""
    for wait_s in RETRY_WAITS_S:
        try:
            return await target.ready()
        except VbrError as error:
            # A repository that is not there needs an administrator; nobody waits a minute to be told.
            if not error.retryable or isinstance(error, RepositoryNotMounted):
                raise
            context.log.warning(f"{error.code}: {error}; tried again in {wait_s:.0f} s")
            await pause(wait_s, context.stop)
            context.stop.check()
    return await target.ready()


async def _inventory(connecting: "asyncio.Task[Connection]") -> tuple[Connection, Sequence[Machine]]:
    connection = await connecting
    return connection, await connection.call(connection.hypervisor.inventory)


def _tasks(context: Context, connection: Connection, machine: Machine, warnings: Warnings) -> list[Task]:
    """Make one task per disk and one for the configuration; skipped disks are warnings."""
    disks = [disk for disk in machine.disks if not disk.skipped]
    for disk in machine.disks:
        if disk.skipped:
            warnings.add(f"skipped: {disk.skipped}", machine=machine.name, disk=disk.name)
    names = [(disk.name, disk.size_bytes) for disk in disks]
    if "configuration" in connection.plugin.info.capabilities:
        names.append((CONFIGURATION, 0))
    now = time.time()
    tasks = [
        Task(
            task_id=new_id(),
            session_id=context.session.session_id,
            machine=machine.name,
            disk=name,
            size_bytes=size_bytes,
            created=now,
        )
        for name, size_bytes in names
    ]
    context.catalog.add_tasks(tasks)
    return tasks


def _selection_failures(context: Context, selection: Selection, warnings: Warnings) -> list[VbrError]:
    """A machine named in the job that is not there is a failed task, a pattern that matches nothing a warning."""
    for pattern in selection.unmatched:
        warnings.add(f"the pattern {pattern} matches no machine")
    failures: list[VbrError] = [MachineNotFound(f"machine {name} is not there") for name in selection.missing]
    failures += [
        MachineNotFound(f"the pattern {pattern} matches no machine any more") for pattern in selection.vanished
    ]
    now = time.time()
    tasks = [
        Task(
            task_id=new_id(),
            session_id=context.session.session_id,
            machine=name,
            disk="",
            state="failed",
            created=now,
            ended=now,
            error=error.info(),
        )
        for name, error in zip((*selection.missing, *selection.vanished), failures, strict=True)
    ]
    context.catalog.add_tasks(tasks)
    for error in failures:
        context.log.error(str(error))
    return failures


async def _run_all(context: Context, machines: Sequence[MachineBackup]) -> None:
    """Run all machines at once (the leases bound them); end them all where the session must end now."""
    running = {asyncio.create_task(machine.run(), name=machine.machine.name): machine for machine in machines}
    if not running:
        return
    ender = asyncio.create_task(_end_now(context, running), name="end-now")
    await asyncio.wait(running)
    ender.cancel()
    for task, machine in running.items():
        if task.cancelled():
            lost = context.leases.lost.is_set()
            machine.end(LeaseLost("the session lost its leases") if lost else SessionStopped("stopped on request"))
        elif (error := task.exception()) is not None:
            context.log.error("".join(traceback.format_exception(error)), machine=machine.machine.name)
            machine.end(VbrError(f"{machine.machine.name}: {type(error).__name__}: {error}"))


async def _end_now(context: Context, running: Iterable["asyncio.Task[None]"]) -> None:
    stop = asyncio.create_task(context.stop.now.wait())
    lost = asyncio.create_task(context.leases.lost.wait())
    try:
        await asyncio.wait((stop, lost), return_when=asyncio.FIRST_COMPLETED)
    finally:
        stop.cancel()
        lost.cancel()
    for task in running:
        task.cancel()


def _outcome(
    machines: Iterable[MachineBackup], failures: list[VbrError], target: Target, warnings: Warnings
) -> Outcome:
    totals = Totals()
    errors = list(failures)
    for machine in machines:
        totals = totals.plus(machine.totals)
        if machine.error is not None:
            errors.append(machine.error)
    stopped = next((error for error in errors if isinstance(error, SessionStopped)), None)
    return Outcome(
        totals=Totals(totals.read_bytes, totals.transferred_bytes, target.stored_bytes, totals.audit_bytes),
        warnings=warnings.all(),
        error=(stopped or errors[0]).info() if errors else None,
        failures=len(errors),
    )
