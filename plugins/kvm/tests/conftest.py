"""A real libvirtd and real QEMU processes. Most guests are paused and have no system: what "the guest writes" goes
through the device's block backend by QEMU's monitor, with the same effect on bitmaps and backups.
"""

import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu  # type: ignore[import-untyped]
import pytest

from vbr_kvm.hypervisor import KvmHypervisor
from vbr_kvm.reader import BackupReader
from vbr_kvm.settings import KvmSettings
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import BaseDisk, DiskSource, Snapshot, SnapshotPlan, SnapshotRequest

MIB = 1 << 20
SCRIPTS = Path(__file__).parents[3] / "script"
HMP = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP


@pytest.fixture(scope="session")
def connection() -> Iterator[Any]:
    subprocess.run([str(SCRIPTS / "libvirt-up")], check=True, timeout=60)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    opened = libvirt.open("qemu:///system")
    yield opened
    opened.close()


class Guest:
    """A domain of the test's own, its images below `directory`."""

    def __init__(self, connection: Any, directory: Path, name: str) -> None:
        self.connection = connection
        self.directory = directory
        self.name = name
        self.disks: list[tuple[str, str, Path]] = []
        self.domain: Any = None

    def add_disk(self, target: str, image_format: str, size_bytes: int, *options: str) -> Path:
        path = self.directory / f"{target}.{image_format}"
        command = ["qemu-img", "create", "-q", "-f", image_format, *options, str(path), str(size_bytes)]
        subprocess.run(command, check=True, timeout=30)
        self.disks.append((target, image_format, path))
        return path

    def define(self, devices: str = "", system: str = "", identity: str = "") -> None:
        disks = "".join(self.disk_xml(*disk) for disk in self.disks)
        identity = identity or (f"<uuid>{self.domain.UUIDString()}</uuid>" if self.domain is not None else "")
        self.domain = self.connection.defineXML(
            f"<domain type='qemu'><name>{self.name}</name>{identity}<memory unit='MiB'>128</memory><vcpu>1</vcpu>"
            f"<os><type arch='x86_64' machine='pc'>hvm</type>{system}</os><features><acpi/></features>"
            f"<on_reboot>destroy</on_reboot><devices>{disks}{devices}</devices></domain>"
        )

    def start(self) -> None:
        self.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def restart(self) -> None:
        self.domain.destroy()
        self.start()

    def write(self, target: str, offset: int, length: int, pattern: int) -> None:
        index = [disk[0] for disk in self.disks].index(target)
        device = f"/machine/peripheral/virtio-disk{index}/virtio-backend"
        for command in (f"write -P {pattern} {offset} {length}", "flush"):
            text = self.monitor(f'qemu-io -d {device} "{command}"')
            assert "rror" not in text, text

    def monitor(self, command: str) -> str:
        return str(libvirt_qemu.qemuMonitorCommand(self.domain, command, HMP))

    def pid(self) -> int:
        return int(Path(f"/run/libvirt/qemu/{self.name}.pid").read_text(encoding="ascii"))

    def checkpoints(self) -> list[str]:
        flags = libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL
        return [one.getName() for one in self.domain.listAllCheckpoints(flags)]

    @staticmethod
    def disk_xml(target: str, image_format: str, path: Path) -> str:
        return (
            f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}'/><source file='{path}'/>"
            f"<target dev='{target}' bus='virtio'/></disk>"
        )

    def xml_of(self, target: str) -> str:
        return self.disk_xml(*next(disk for disk in self.disks if disk[0] == target))

    def image_bitmaps(self, target: str) -> set[str]:
        """Return the names of the bitmaps in an image, as QEMU sees them (while off: as the file has them)."""
        path = next(disk[2] for disk in self.disks if disk[0] == target)
        if self.domain.isActive():
            answer = libvirt_qemu.qemuMonitorCommand(self.domain, '{"execute": "query-named-block-nodes"}', 0)
            nodes = json.loads(answer)["return"]
            bitmaps = [
                bitmap for node in nodes if node["file"] == str(path) for bitmap in node.get("dirty-bitmaps", [])
            ]
            return {bitmap["name"] for bitmap in bitmaps}
        command = ["qemu-img", "info", "--output=json", str(path)]
        info = json.loads(subprocess.run(command, check=True, capture_output=True, timeout=30).stdout)
        return {bitmap["name"] for bitmap in info["format-specific"]["data"].get("bitmaps", [])}

    def remove(self) -> None:
        if self.domain is not None:
            if self.domain.isActive():
                self.domain.destroy()
            self.domain.undefineFlags(
                libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
            )
        shutil.rmtree(self.directory, ignore_errors=True)


@pytest.fixture
def make_guest(connection: Any) -> Iterator[Callable[[], Guest]]:
    made: list[Guest] = []

    def make() -> Guest:
        name = f"vbrtest-{uuid.uuid4().hex[:8]}"
        directory = Path("/var/lib/libvirt/images") / name
        directory.mkdir()
        made.append(Guest(connection, directory, name))
        return made[-1]

    yield make
    for guest in made:
        guest.remove()


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Return a scratch directory that QEMU's user can pass through."""
    return Path("/var/lib/libvirt/images") / f"vbrtest-scratch-{tmp_path.name}"


@pytest.fixture
def small_scratch() -> Iterator[Path]:
    path = Path("/var/lib/libvirt/images/vbrtest-small-scratch")
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m,mode=0711", "vbrtest", str(path)], check=True, timeout=30)
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True, timeout=30)
    path.rmdir()


class Line:
    """The part of a job manager that a plugin sees: one job that backs up one machine, point after point."""

    def __init__(self, guest: Guest, settings: KvmSettings) -> None:
        self.guest = guest
        self.settings = settings
        self.hypervisor = KvmHypervisor(settings)
        self.job_id = new_id()
        self.base: tuple[BaseDisk, ...] = ()
        self.image: dict[str, bytearray] = {}
        self.read_bytes: dict[str, int] = {}

    def machine(self) -> Machine:
        return next(one for one in self.hypervisor.inventory() if one.name == self.guest.name)

    def request(self, attempt: int = 1, *, quiesce: bool = False) -> SnapshotRequest:
        return SnapshotRequest(self.job_id, new_id(), attempt, self.machine(), quiesce, self.base)

    def take(self, *, quiesce: bool = False) -> tuple[SnapshotPlan, Snapshot]:
        request = self.request(quiesce=quiesce)
        plan = self.hypervisor.plan_snapshot(request)
        return plan, self.hypervisor.take_snapshot(request, plan)

    def read(self, snapshot: Snapshot) -> None:
        """Bring our copies of the disks up to date, as a mover does: changed extents only where tracking works."""
        for disk in snapshot.disks:
            self.read_bytes[disk.name] = self.read_disk(disk)

    def read_disk(self, disk: DiskSource) -> int:
        reader = BackupReader(disk.source)
        try:
            assert reader.size_bytes == disk.size_bytes
            old = self.image.get(disk.disk_id, bytearray())
            new = bytearray(old[: disk.size_bytes]) if disk.since else bytearray(disk.size_bytes)
            count = 0
            for extent in reader.extents(disk.since):
                piece = memoryview(new)[extent.offset : extent.offset + extent.length]
                if extent.state == "data":
                    reader.read_into(extent.offset, piece)
                    count += extent.length
                elif extent.state == "zero":
                    piece[:] = bytes(extent.length)
            self.image[disk.disk_id] = new
            return count
        finally:
            reader.close()

    def commit(self, plan: SnapshotPlan, snapshot: Snapshot) -> None:
        self.hypervisor.confirm_snapshot(plan)
        self.base = tuple(BaseDisk(disk.disk_id, disk.size_bytes, disk.change_id) for disk in snapshot.disks)
        self.hypervisor.release_snapshot(plan, committed=True)

    def point(self) -> Snapshot:
        plan, snapshot = self.take()
        self.read(snapshot)
        self.commit(plan, snapshot)
        return snapshot

    def close(self) -> None:
        self.hypervisor.close()


@pytest.fixture
def make_line(scratch: Path) -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(guest: Guest, **settings: Any) -> Line:
        made.append(Line(guest, KvmSettings(**{"scratch_directory": str(scratch), **settings})))
        return made[-1]

    yield make
    for line in made:
        line.close()
    shutil.rmtree(scratch, ignore_errors=True)
