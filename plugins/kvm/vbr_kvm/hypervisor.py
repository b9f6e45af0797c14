"""A connection to libvirt: the nouns of this package behind the plugin API."""

import logging
from collections.abc import Sequence

import libvirt

from vbr_kvm.domain import inventory
from vbr_kvm.host import KvmHost, LocalHost
from vbr_kvm.remote import RemoteHost
from vbr_kvm.restore import Restores
from vbr_kvm.settings import KvmSettings
from vbr_kvm.snapshot import Snapshots
from vbr_kvm.ways import Ways
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import ManagedHost, RestorePlan, RestoreRequest, Snapshot, SnapshotPlan, SnapshotRequest

_log = logging.getLogger(__name__)


class KvmHypervisor:
    """`managed`: the server that libvirt runs on, other than this machine."""

    def __init__(self, settings: KvmSettings, managed: ManagedHost | None = None) -> None:
        self._host: KvmHost = LocalHost(settings) if managed is None else RemoteHost(settings, managed)
        try:
            self._connection = self._host.open_libvirt()
        except BaseException:
            self._host.close()
            raise
        self._closed = False
        ways = Ways(managed)
        self._snapshots = Snapshots(self._connection, self._host, settings, ways)
        self._restores = Restores(self._connection, self._host, ways)

    def inventory(self) -> Sequence[Machine]:
        return inventory(self._connection)

    def plan_snapshot(self, request: SnapshotRequest) -> SnapshotPlan:
        return self._snapshots.plan(request)

    def take_snapshot(self, request: SnapshotRequest, plan: SnapshotPlan) -> Snapshot:
        return self._snapshots.take(request, plan)

    def confirm_snapshot(self, plan: SnapshotPlan) -> None:
        self._snapshots.confirm(plan)

    def release_snapshot(self, plan: SnapshotPlan, *, committed: bool) -> None:
        self._snapshots.release(plan, committed=committed)

    def orphans(self, job_id: str, live_session_ids: frozenset[str]) -> Sequence[SnapshotPlan]:
        return self._snapshots.orphans(job_id, live_session_ids)

    def plan_restore(self, request: RestoreRequest) -> RestorePlan:
        return self._restores.plan(request)

    def create_machine(self, request: RestoreRequest, plan: RestorePlan) -> str:
        return self._restores.create(request, plan)

    def remove_machine(self, plan: RestorePlan) -> None:
        self._restores.remove(plan)

    def power_on(self, machine_id: str) -> None:
        self._restores.power_on(machine_id)

    def close(self) -> None:
        self._snapshots.close()
        if not self._closed:
            self._closed = True
            try:
                self._connection.close()
            except libvirt.libvirtError as error:
                _log.warning("closing a connection to libvirt: %s", error)
            self._host.close()
