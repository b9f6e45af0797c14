"""Taking all disks of a domain at one moment, and giving them back."""

import contextlib
from pathlib import Path
from typing import Any

from vbr_kvm import backup, checkpoint, offline, places, quiesce
from vbr_kvm.beginning import Beginning
from vbr_kvm.connection import find_domain, libvirt_errors, qemu_account
from vbr_kvm.domain import DomainDisk, disks_of, domain_xml, size_of
from vbr_kvm.host import KvmHost
from vbr_kvm.kept import configuration_source
from vbr_kvm.plan import Plan
from vbr_kvm.settings import KvmSettings
from vbr_kvm.watch import ScratchWatch
from vbr_kvm.ways import Settings, Ways
from vbrcore.model.errors import InvalidValue, MachineBusy, MachineNotFound, ScratchFull, SnapshotInvalid
from vbrcore.model.ids import short_id
from vbrcore.plugins.api import DiskSource, Snapshot, SnapshotPlan, SnapshotRequest


class Snapshots:
    """The snapshots of one connection. `_watches` are those of this process; everything else is in the plan."""

    def __init__(self, connection: Any, host: KvmHost, settings: KvmSettings, ways: Ways) -> None:
        self._connection = connection
        self._host = host
        self._ways = ways
        self._settings = settings
        self._watches: dict[str, ScratchWatch] = {}

    # --- plan -----------------------------------------------------------------------------------

    def plan(self, request: SnapshotRequest) -> SnapshotPlan:
        domain = find_domain(self._connection, request.machine.machine_id)
        name = checkpoint.name_for(request.job_id, request.session_id, request.attempt)
        prefix = checkpoint.prefix_of(request.job_id)
        active = bool(domain.isActive())
        disks = self._wanted(domain_xml(domain), request, running=active)
        if active:
            socket = places.socket_path(self._host.runtime_root(), name, domain.name()) if disks else ""
            scratch = str(self._host.scratch_root())
            plan = Plan(name, domain.name(), prefix, active, str(socket), scratch, request.quiesce)
        else:
            files = [disk.source for disk in disks]
            stamps = [self._host.stamp(path) for path in files]
            plan = Plan(name, domain.name(), prefix, active, files=files, stamps=stamps)
        return plan.packed(domain.UUIDString())

    def _wanted(self, xml: Any, request: SnapshotRequest, *, running: bool) -> list[DomainDisk]:
        """Return the disks of the request as they are now. Raises `SnapshotInvalid` if one is gone."""
        now = {disk.target: disk for disk in disks_of(self._connection, xml, running=running)}
        wanted = []
        for disk in request.machine.disks:
            found = now.get(disk.disk_id)
            if disk.skipped:
                continue
            if found is None or found.skipped:
                reason = "not attached any more" if found is None else found.skipped
                raise SnapshotInvalid(f"{request.machine.name}: disk {disk.name}: {reason}")
            wanted.append(found)
        return wanted

    # --- take -----------------------------------------------------------------------------------

    def take(self, request: SnapshotRequest, packed: SnapshotPlan) -> Snapshot:
        plan = Plan.unpacked(packed)
        domain = find_domain(self._connection, packed.machine_id)
        if bool(domain.isActive()) != plan.active:
            raise SnapshotInvalid(f"{plan.domain}: was {'stopped' if plan.active else 'started'} meanwhile")
        configuration, warnings = configuration_source(domain, self._host)
        if plan.socket:
            sources = self._begin(domain, request, plan, warnings)
        else:
            sources = self._read_in_place(domain, request, plan)
        return Snapshot(sources, self._ways.configuration(configuration), tuple(warnings), configuration)

    def _read_in_place(self, domain: Any, request: SnapshotRequest, plan: Plan) -> tuple[DiskSource, ...]:
        """An older checkpoint stays the change id: what changed since then includes what changed since this point."""
        offline.check_stamps(self._host.stamp, plan.files, plan.stamps)
        bases = checkpoint.Bases(self._connection, domain, request.base, running=False)
        sources = []
        for disk in self._wanted(domain_xml(domain), request, running=plan.active):
            size_bytes = size_of(domain, disk)
            change_id, _ = bases.usable(disk, size_bytes)
            settings: Settings = {"path": disk.source, "format": disk.format}
            sources.append(self._ways.disk(disk.target, size_bytes, "image", settings, change_id=change_id))
        return tuple(sources)

    def _begin(self, domain: Any, request: SnapshotRequest, plan: Plan, warnings: list[str]) -> tuple[DiskSource, ...]:
        self._end_left_over(domain, plan)
        backup.check_idle(domain)
        xml = domain_xml(domain)
        disks = self._wanted(xml, request, running=True)
        socket, scratch = Path(plan.socket), Path(plan.scratch)
        self._host.make_scratch_root(scratch)
        size, free = self._space(scratch)
        reserve = places.reserve_bytes(self._settings, size)
        places.check_scratch(scratch, free, reserve)
        account = qemu_account(self._connection, xml, self._host.own_account())
        self._host.make_socket_directory(socket.parent, account)
        beginning = Beginning(self._connection, self._host, domain, plan, request, disks=disks)
        beginning.begin(warnings, quiesced=request.quiesce and _can_quiesce(xml, warnings))
        self._watches[plan.name] = ScratchWatch(self._host, domain.UUIDString(), socket, scratch, reserve)
        return tuple(beginning.source(disk, self._ways) for disk in disks)

    def _space(self, scratch: Path) -> tuple[int, int]:
        try:
            return self._host.space(scratch)
        except OSError as error:
            raise InvalidValue(f"scratch_directory {scratch}: {error}") from error

    def _end_left_over(self, domain: Any, plan: Plan) -> None:
        """End the job that a dead session of this job left. Another's makes the machine busy."""
        socket = backup.running_socket(domain)
        if socket is None:
            return
        name = Path(socket).parent.name
        if not name.startswith(plan.prefix):
            raise MachineBusy(f"{plan.domain}: another backup job runs ({socket or 'no socket'})")
        backup.abort(domain, Path(socket))

    # --- confirm, release -----------------------------------------------------------------------

    def confirm(self, packed: SnapshotPlan) -> None:
        plan = Plan.unpacked(packed)
        domain = find_domain(self._connection, packed.machine_id)
        if not plan.active:
            if domain.isActive():
                raise SnapshotInvalid(f"{plan.domain}: was started while it was read")
            offline.check_stamps(self._host.stamp, plan.files, plan.stamps)
        if not plan.socket:
            return
        ended = self._host.ended_reason(Path(plan.socket).parent)
        if ended:
            raise ScratchFull(ended)
        if backup.running_socket(domain) != plan.socket:
            raise SnapshotInvalid(f"{plan.domain}: the backup job ended early (the machine was stopped, or QEMU died)")

    def release(self, packed: SnapshotPlan, *, committed: bool) -> None:
        plan = Plan.unpacked(packed)
        watch = self._watches.pop(plan.name, None)
        if watch is not None:
            watch.stop()
        if not plan.socket:
            return
        try:
            domain = find_domain(self._connection, packed.machine_id)
        except MachineNotFound:
            domain = None
        if domain is not None:
            if plan.quiesce and not committed and domain.isActive():
                quiesce.thaw(domain)
            backup.abort(domain, Path(plan.socket))
            if committed:
                checkpoint.delete_older(self._host, domain, plan.prefix, plan.name)
                checkpoint.delete_forgotten(self._host, domain, plan.prefix, plan.name)
            else:
                checkpoint.delete_one(self._host, domain, plan.name)
        self._host.remove_scratch_files(Path(plan.scratch), plan.name)
        self._host.remove_directory(Path(plan.socket).parent)

    def orphans(self, job_id: str, live_session_ids: frozenset[str]) -> list[SnapshotPlan]:
        """Find running backups and checkpoints of this job's dead sessions.

        A job's oldest checkpoint on a machine is never named: it may be the base of the last committed point. Add the
        sessions of committed points to `live_session_ids` to keep theirs too.
        """
        live = {short_id(session_id) for session_id in live_session_ids}
        prefix = checkpoint.prefix_of(job_id)
        with libvirt_errors("list of domains"):
            domains = self._connection.listAllDomains()
        found = []
        for domain in domains:
            with contextlib.suppress(MachineNotFound):  # it was removed meanwhile
                names = _left_on(domain, prefix)
                found += [
                    self._orphan(domain, prefix, one) for one in names if checkpoint.session_part(one) not in live
                ]
        return found

    def _orphan(self, domain: Any, prefix: str, name: str) -> SnapshotPlan:
        socket = places.socket_path(self._host.runtime_root(), name, domain.name())
        scratch = str(self._host.scratch_root())
        plan = Plan(name, domain.name(), prefix, active=True, socket=str(socket), scratch=scratch)
        return plan.packed(domain.UUIDString())

    def close(self) -> None:
        """Stop watching. The backups go on: whoever closes without releasing is about to be cleaned up after."""
        for watch in self._watches.values():
            watch.stop()
        self._watches.clear()


def _left_on(domain: Any, prefix: str) -> list[str]:
    """Return the names of a job's checkpoints except for the oldest, and of its running backup."""
    names = [one.getName() for one in checkpoint.ours(domain, prefix)][1:]
    socket = backup.running_socket(domain)
    running = Path(socket).parent.name if socket else ""
    if running.startswith(prefix) and running not in names:
        names.append(running)
    return names


def _can_quiesce(xml: Any, warnings: list[str]) -> bool:
    if quiesce.agent_connected(xml):
        return True
    warnings.append("not quiesced: no guest agent answers")
    return False
