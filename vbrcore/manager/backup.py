"""A backup session: which machines, one task per disk, all machines side by side, then the seal."""

import asyncio
import time
import traceback
from collections.abc import Iterable, Sequence

from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.disks import CONFIGURATION, JobParts
from vbrcore.manager.gate import Gate
from vbrcore.manager.health import Place, report_losses
from vbrcore.manager.jobchains import JobChains
from vbrcore.manager.machine import MachineBackup
from vbrcore.manager.placement import Placement
from vbrcore.manager.report import Outcome
from vbrcore.manager.selection import Selection, select
from vbrcore.model.errors import LeaseLost, MachineNotFound, OutsideWindow, SessionStopped, VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine
from vbrcore.model.session import Task, Totals


async def run_backup(context: Context) -> Outcome:
    """Run a session of kind `backup`. Raises what keeps the session as a whole from running."""
    catalog, log = context.catalog, context.log
    job = catalog.job(context.session.job_id)
    encrypted = catalog.is_encrypted(job.repository_id)
    repository = await context.gateways.repository(job.repository_id, job.chain_directory(encrypted=encrypted))
    hypervisor = catalog.hypervisor(job.hypervisor_id)
    chains = JobChains(context, job, repository, Warnings(log))
    gate = Gate(job.schedule, context.session, context.stop, log)
    gate.start()
    connecting = asyncio.create_task(Connection.connect(catalog, hypervisor))
    starting = asyncio.create_task(context.crew.transport())
    try:
        await gate.while_open(chains.begin())
        catalog.update_session(context.session.session_id, state="running")
        (connection, inventory), _ = await asyncio.gather(_inventory(connecting), chains.open_shared())
        log.info(f"{len(inventory)} machines in the inventory")
        selection = select(job, inventory, catalog.machines_of(job.job_id), _without(context))
        parts = JobParts(
            job=job,
            repository=repository,
            placement=Placement(
                job=job,
                repository=repository,
                servers=catalog.servers(),
                beside=catalog.server_by_name(repository.server),
                hypervisor=hypervisor,
                plugin=connection.plugin,
                unfit=frozenset(
                    server_id
                    for server_id, state in catalog.server_states().items()
                    if state.facts is not None and not state.facts.can_run_movers
                ),
                host=connection.host,
            ),
            times_s=catalog.task_times_s(job.job_id),
            connection=connection,
            warnings=chains.warnings,
            gate=gate,
        )
        machines = [
            MachineBackup(
                context,
                parts,
                chains.of(machine),
                machine,
                _tasks(context, connection, machine, chains.warnings),
            )
            for machine in selection.machines
        ]
        failures = _selection_failures(context, selection, chains.warnings)
        present = frozenset(machine.machine_id for machine in inventory)
        await _run_all(context, machines, chains, present)
        await chains.finish(present, retain=any(machine.point is not None for machine in machines))
        for chain in chains.all():
            place = Place(repository, chain.directory)
            await report_losses(context, job, place, chain.target.running, chains.warnings)
        return _outcome(machines, failures, chains)
    finally:
        await gate.close()
        await chains.kill()
        connected, _ = await asyncio.gather(connecting, starting, return_exceptions=True)
        if isinstance(connected, Connection):
            await connected.close()


def _without(context: Context) -> tuple[str, ...]:
    """Return the ids of the machines that this session, a retry, need not back up again."""
    named = context.session.request.get("without", ())
    without = tuple(map(str, named)) if isinstance(named, list | tuple) else ()
    if retry := context.session.request.get("retry"):
        context.log.info(f"retry {retry}: {len(without)} machines have their point already")
    return without


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


async def _run_all(
    context: Context, machines: Sequence[MachineBackup], chains: JobChains, present: frozenset[str]
) -> None:
    """Run all machines at once (the leases bound them); end them all where the session must end now."""

    async def run(machine: MachineBackup) -> None:
        await machine.run()
        await chains.finish_machine(machine.chain, present, retain=machine.point is not None)

    running = {asyncio.create_task(run(machine), name=machine.machine.name): machine for machine in machines}
    if not running:
        return
    ender = asyncio.create_task(_end_now(context, running), name="end-now")
    await asyncio.wait(running)
    ender.cancel()
    for task, machine in running.items():
        if task.cancelled():
            lost = context.leases.lost.is_set()
            machine.end(LeaseLost("the session lost its leases") if lost else context.stop.reason)
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


def _outcome(machines: Iterable[MachineBackup], failures: list[VbrError], chains: JobChains) -> Outcome:
    totals = Totals()
    errors = list(failures)
    for machine in machines:
        totals = totals.plus(machine.totals)
        if machine.error is not None:
            errors.append(machine.error)
    errors.sort(key=_weight)
    return Outcome(
        totals=Totals(totals.read_bytes, totals.transferred_bytes, chains.stored_bytes, totals.audit_bytes),
        warnings=chains.warnings.all(),
        error=errors[0].info() if errors else None,
        failures=len(errors),
        report={"upkeep": chains.report},
    )


def _weight(error: VbrError) -> int:
    """Of several errors the session tells one: that it was stopped, else a failure, else the end of its window."""
    return 0 if isinstance(error, SessionStopped) else 2 if isinstance(error, OutsideWindow) else 1
