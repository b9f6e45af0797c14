"""Sessions that read points: restore of a disk or a machine, verify."""

import asyncio
from collections.abc import Mapping

import msgspec

from vbrcore.api.types import RestoreDisk, RestoreMachine, Verify
from vbrcore.catalog.catalog import StoredPoint
from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.journal import RESTORE, RestoreEntry
from vbrcore.manager.reads import read_configuration, run_disks
from vbrcore.manager.report import Outcome
from vbrcore.model.errors import BlocksMissing, DataCorrupt, FormatInvalid, NotFound, VbrError, error_from
from vbrcore.model.point import PointDisk
from vbrcore.model.session import Totals
from vbrcore.mover.messages import RestoreDone
from vbrcore.plugins import api
from vbrcore.restore.export import export_sink, stream_sink


async def run_restore_disk(context: Context) -> Outcome:
    """Write one disk of a point to a file, or into the caller's stream."""
    request = msgspec.convert(context.session.request, RestoreDisk)
    stored = context.catalog.point(request.point)
    disk = _disk(stored, request.disk)
    if request.stream:
        sink = stream_sink(request.stream, request.stream_token, disk.size_bytes, _confinement(context))
    else:
        sink = export_sink(request.output, request.format, disk.size_bytes, _confinement(context))
    # A stream cannot be rewound and a new file is made exclusively: neither is tried again by itself.
    done = await run_disks(context, stored, {disk.disk_id: sink}, attempts=1)
    return _outcome(stored, done, ())


async def run_verify(context: Context) -> Outcome:
    """Read every disk of a point: checksums of what is stored, with `deep` the digests of all blocks."""
    request = msgspec.convert(context.session.request, Verify)
    stored = context.catalog.point(request.point)
    sinks: dict[str, api.SinkSpec | None] = {disk.disk_id: None for disk in stored.point.disks}
    done = await run_disks(context, stored, sinks, deep=request.deep)
    outcome = _outcome(stored, done, ())
    if stored.point.configuration:
        try:
            await read_configuration(context, stored, as_stored=not request.deep)
        except (DataCorrupt, BlocksMissing, FormatInvalid) as error:
            # What is wrong with the disks is told first: it is what most is lost with.
            damage = DataCorrupt(f"{stored.point.machine}: the configuration cannot be read: {error}")
            context.log.error(str(damage), machine=stored.point.machine)
            outcome = msgspec.structs.replace(
                outcome, error=outcome.error or damage.info(), failures=outcome.failures + 1
            )
    return outcome


async def run_restore_machine(context: Context) -> Outcome:
    """Make a whole machine on a hypervisor from a point; a failed one is removed again."""
    request = msgspec.convert(context.session.request, RestoreMachine)
    stored = context.catalog.point(request.point)
    warnings = Warnings(context.log)
    row = context.catalog.hypervisor_by_name(request.hypervisor)
    connection = await Connection.connect(context.catalog, row)
    try:
        wanted = api.RestoreRequest(
            name=request.name,
            configuration_plugin=stored.point.plugin,
            configuration=await read_configuration(context, stored) if stored.point.configuration else b"",
            disks=tuple(api.RestoreDisk(disk.disk_id, disk.name, disk.size_bytes) for disk in stored.point.disks),
            options=request.options,
        )
        plan = await connection.call(connection.hypervisor.plan_restore, wanted)
        for element in plan.left_out:
            warnings.add(f"left out of the configuration: {element}", machine=request.name)
        entry = context.catalog.journal_add(
            context.session.session_id,
            row.hypervisor_id,
            RESTORE,
            msgspec.msgpack.encode(RestoreEntry(_without_secrets(plan))),
        )
        made = plan
        try:
            done = await run_disks(context, stored, _confined(plan.sinks, _confinement(context)), attempts=1)
            made = _only_made(plan, done)
            outcome = _outcome(stored, done, warnings.all())
            if outcome.error is not None:
                raise error_from(outcome.error)
            machine_id = await connection.call(connection.hypervisor.create_machine, wanted, plan)
        except BaseException:
            await asyncio.shield(connection.call(connection.hypervisor.remove_machine, made))
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


def _confinement(context: Context) -> api.Confinement | None:
    """Return what the service bound this session to: it has put it beside what the caller asked for."""
    return msgspec.convert(context.session.request["confinement"], api.Confinement | None)


def _confined(sinks: Mapping[str, api.SinkSpec], confinement: api.Confinement | None) -> dict[str, api.SinkSpec | None]:
    return {disk_id: msgspec.structs.replace(sink, confinement=confinement) for disk_id, sink in sinks.items()}


def _without_secrets(plan: api.RestorePlan) -> api.RestorePlan:
    """Return a plan as it may be journaled: to undo it needs none of what its movers need."""
    sinks = {disk_id: msgspec.structs.replace(sink, secrets={}) for disk_id, sink in plan.sinks.items()}
    return msgspec.structs.replace(plan, sinks=sinks)


def _only_made(plan: api.RestorePlan, done: dict[str, RestoreDone | VbrError]) -> api.RestorePlan:
    """Return what is to be removed: where a sink failed, e.g. `already_exists`, what is there is somebody else's."""
    sinks = {disk_id: sink for disk_id, sink in plan.sinks.items() if isinstance(done[disk_id], RestoreDone)}
    return msgspec.structs.replace(plan, sinks=sinks)


def _disk(stored: StoredPoint, name: str) -> PointDisk:
    for disk in stored.point.disks:
        if name in {disk.name, disk.disk_id}:
            return disk
    names = ", ".join(disk.name for disk in stored.point.disks)
    raise NotFound(f"point {stored.point.point_id} has no disk {name}; it has {names}")


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
