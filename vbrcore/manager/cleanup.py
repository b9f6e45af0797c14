"""Undoes what dead sessions left on hypervisors, from the journal. Runs as a session of its own."""

import msgspec

from vbrcore.catalog.catalog import JournalRow
from vbrcore.manager.connection import Connection
from vbrcore.manager.context import Context, Warnings
from vbrcore.manager.journal import RESTORE, RestoreEntry, SnapshotEntry
from vbrcore.manager.outcome import committed_point
from vbrcore.manager.report import Outcome
from vbrcore.model.errors import VbrError


async def run_cleanup(context: Context) -> Outcome:
    """Undo every open journal entry of sessions that have ended. One that fails stays, and is a warning."""
    warnings = Warnings(context.log)
    connections: dict[str, Connection] = {}
    try:
        for row in context.catalog.journal_orphans():
            try:
                await _undo(context, connections, row)
            except VbrError as error:
                warnings.add(f"{row.action} of session {row.session_id} is not undone yet: {error}")
            else:
                context.catalog.journal_done(row.entry_id)
                context.log.info(f"{row.action} of session {row.session_id} undone")
    finally:
        for connection in connections.values():
            await connection.close()
    return Outcome(warnings=warnings.all())


async def _undo(context: Context, connections: dict[str, Connection], row: JournalRow) -> None:
    if row.hypervisor_id not in connections:
        hypervisor = context.catalog.hypervisor(row.hypervisor_id)
        connections[row.hypervisor_id] = await Connection.connect(context.catalog, hypervisor)
    connection = connections[row.hypervisor_id]
    if row.action == RESTORE:
        plan = msgspec.msgpack.decode(row.payload, type=RestoreEntry).plan
        await connection.call(connection.hypervisor.remove_machine, plan)
        return
    entry = msgspec.msgpack.decode(row.payload, type=SnapshotEntry)
    repository = await context.gateways.repository(entry.repository_id)
    committed = await committed_point(context.storages, repository, entry.directory, entry.point_id)
    await connection.call(connection.hypervisor.release_snapshot, entry.plan, committed=committed is not None)
