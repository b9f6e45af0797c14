"""A connection to libvirt: the nouns of this package behind the plugin API."""

from collections.abc import Sequence

from vbr_kvm.connection import open_connection
from vbr_kvm.domain import inventory
from vbr_kvm.restore import Restores
from vbr_kvm.settings import KvmSettings
from vbr_kvm.snapshot import Snapshots
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import RestorePlan, RestoreRequest, Snapshot, SnapshotPlan, SnapshotRequest


class KvmHypervisor:
    def __init__(self, settings: KvmSettings) -> None:
        self._connection = open_connection(settings.uri)
        self._closed = False
        self._snapshots = Snapshots(self._connection, settings)
        self._restores = Restores(self._connection, settings)

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
            self._connection.close()
