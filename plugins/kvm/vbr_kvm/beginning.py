"""Beginning a backup job on a running domain: what is asked of libvirt, and what is still possible if it refuses."""

from pathlib import Path
from typing import Any

import libvirt

from vbr_kvm import backup, checkpoint, places, quiesce
from vbr_kvm.backup import BackupDisk
from vbr_kvm.connection import libvirt_errors, translated
from vbr_kvm.domain import DomainDisk, domain_xml, size_of
from vbr_kvm.host import KvmHost
from vbr_kvm.plan import Plan
from vbr_kvm.ways import Ways
from vbrcore.plugins.api import DiskSource, SnapshotRequest


class Beginning:
    """One call of backupBegin, with less asked of libvirt where it refuses more."""

    def __init__(
        self,
        connection: Any,
        host: KvmHost,
        domain: Any,
        plan: Plan,
        request: SnapshotRequest,
        *,
        disks: list[DomainDisk],
    ) -> None:
        self._domain = domain
        self._plan = plan
        self._disks = disks
        self._sizes = {disk.target: size_of(domain, disk) for disk in disks}
        bases = checkpoint.Bases(connection, domain, request.base, running=True)
        self._base = {disk.target: bases.usable(disk, self._sizes[disk.target]) for disk in disks}
        self._tracked = {disk.target for disk in disks if disk.format == "qcow2"}
        self._without = {
            disk.target for disk in disks if disk.format == "qcow2" and not checkpoint.holds_bitmaps(host, disk)
        }
        self._tracked -= self._without
        targets = [node.get("dev", "") for node in domain_xml(domain).findall("devices/disk/target")]
        self._others = [target for target in targets if target not in self._base]

    def begin(self, warnings: list[str], *, quiesced: bool) -> None:
        warnings += [f"no change tracking: {target} is qcow2 of version 2" for target in sorted(self._without)]
        if quiesced:
            with quiesce.frozen(self._domain, warnings):
                self._begin(warnings)
        else:
            self._begin(warnings)

    def _begin(self, warnings: list[str]) -> None:
        """Begin; without bases if libvirt finds one broken, without a checkpoint if an image cannot hold one."""
        try:
            self._call()
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_CHECKPOINT_INCONSISTENT:
                reason = str(error)
                self._base = {name: ("", reason if base else why) for name, (base, why) in self._base.items()}
            elif _cannot_track(error) and self._tracked:
                warnings.append(f"no change tracking: {error}")
                self._tracked = set()
                self._base = {name: ("", why) for name, (_, why) in self._base.items()}
            else:
                raise translated(error, self._plan.domain) from error
            with libvirt_errors(self._plan.domain):
                self._call()

    def _call(self) -> None:
        scratch = Path(self._plan.scratch)
        disks = [
            BackupDisk(
                disk.target,
                str(places.scratch_file(scratch, self._plan.name, disk.target)),
                self._base[disk.target][0],
                disk.target in self._tracked,
            )
            for disk in self._disks
        ]
        self._domain.backupBegin(
            backup.backup_xml(disks, self._others, Path(self._plan.socket)),
            backup.checkpoint_xml(self._plan.name, disks, self._others),
        )

    def source(self, disk: DomainDisk, ways: Ways) -> DiskSource:
        base, reason = self._base[disk.target]
        settings: dict[str, str | int | bool | list[str]] = {"socket": self._plan.socket, "export": disk.target}
        if base:
            settings |= {"bitmap": backup.EXPORT_BITMAP, "since": base}
        return ways.disk(
            disk.target,
            self._sizes[disk.target],
            "nbd",
            settings,
            change_id=self._plan.name if disk.target in self._tracked else "",
            since=base,
            full_reason=reason,
        )


def _cannot_track(error: Any) -> bool:
    """Tell whether libvirt refused the new checkpoint: e.g. an image of qcow2 version 2 holds no bitmaps."""
    return "bitmap" in str(error).lower() or "checkpoint" in str(error).lower()
