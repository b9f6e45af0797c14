"""A real libvirtd and real QEMU processes. Most guests are paused and have no system: what "the guest writes" goes
through the device's block backend by QEMU's monitor, with the same effect on bitmaps and backups.
"""

import contextlib
import json
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu  # type: ignore[import-untyped]
import pytest

from vbr_kvm.hypervisor import KvmHypervisor
from vbr_kvm.mover import READERS
from vbr_kvm.settings import KvmSettings
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import BaseDisk, DiskSource, Snapshot, SnapshotPlan, SnapshotRequest

MIB = 1 << 20
SCRIPTS = Path(__file__).parents[3] / "script"
HMP = libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP


@pytest.fixture(scope="session")
def libvirt_connection() -> Iterator[Any]:
    subprocess.run([str(SCRIPTS / "libvirt-up")], check=True, timeout=60)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    opened = libvirt.open("qemu:///system")
    yield opened
    opened.close()


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


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
        for _ in range(2):  # on a busy machine libvirt can lose the race for a new QEMU's monitor
            with contextlib.suppress(libvirt.libvirtError):
                self.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
                return
        self.domain.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)

    def restart(self) -> None:
        self.domain.destroy()
        self.start()

    def write(self, target: str, offset: int, length: int, pattern: int) -> None:
        self._io(target, f"write -P {pattern} {offset} {length}")

    def write_data(self, target: str, offset: int, data: bytes) -> None:
        source = self.directory / "data"
        source.write_bytes(data)
        self._io(target, f"write -s {source} {offset} {len(data)}")

    def _io(self, target: str, command: str) -> None:
        number = [disk[0] for disk in self.disks].index(target)
        if not self.domain.isActive():
            _, image_format, path = self.disks[number]
            run("qemu-io", "-f", image_format, "-c", command, str(path))
            return
        for one in (command, "flush"):
            text = self.monitor(f'qemu-io -d /machine/peripheral/virtio-disk{number}/virtio-backend "{one}"')
            assert "rror" not in text, text

    def content(self, target: str) -> bytes:
        """Return a disk's bytes as QEMU's own tools see them."""
        _, image_format, path = next(disk for disk in self.disks if disk[0] == target)
        whole = self.directory / "whole"
        run("qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", str(path), str(whole))
        try:
            return whole.read_bytes()
        finally:
            whole.unlink()

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

    def reset(self) -> None:
        """Take away what the last test left: a backup job and all checkpoints."""
        if not self.domain.isActive():
            self.start()
        with contextlib.suppress(libvirt.libvirtError):
            self.domain.backupGetXMLDesc()
            self.domain.abortJob()
        for checkpoint in self.domain.listAllCheckpoints():
            checkpoint.delete()

    @staticmethod
    def remove_domain(connection: Any, name: str) -> None:
        try:
            domain = connection.lookupByName(name)
        except libvirt.libvirtError:
            return
        if domain.isActive():
            domain.destroy()
        domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)

    def remove(self) -> None:
        with contextlib.closing(libvirt.open("qemu:///system")) as connection:
            self.remove_domain(connection, self.name)
        shutil.rmtree(self.directory, ignore_errors=True)


class Guests:
    """Makes guests and removes them in the background: libvirt can take seconds to end one."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._pool = ThreadPoolExecutor(4)
        self._left: list[Guest] = []
        self._going: list[Future[None]] = []

    def __call__(self) -> Guest:
        name = f"vbrtest-{uuid.uuid4().hex[:8]}"
        directory = Path("/var/lib/libvirt/images") / name
        directory.mkdir()
        self._left.append(Guest(self._connection, directory, name))
        return self._left[-1]

    def remove(self, guest: Guest) -> None:
        self._left.remove(guest)
        self._going.append(self._pool.submit(guest.remove))

    def close(self) -> None:
        for guest in list(self._left):
            self.remove(guest)
        self._pool.shutdown()
        for one in self._going:
            one.result()


@pytest.fixture(scope="session")
def make_guest(libvirt_connection: Any) -> Iterator[Guests]:
    guests = Guests(libvirt_connection)
    yield guests
    guests.close()


def three_disks(make_guest: Callable[[], Guest]) -> Guest:
    guest = make_guest()
    guest.add_disk("vda", "qcow2", 64 * MIB)
    guest.add_disk("vdb", "qcow2", 32 * MIB)
    guest.add_disk("vdc", "raw", 16 * MIB)
    guest.define()
    guest.start()
    return guest


@pytest.fixture(scope="session")
def shared_guest(make_guest: Callable[[], Guest]) -> Guest:
    return three_disks(make_guest)


@pytest.fixture
def guest(shared_guest: Guest) -> Guest:
    """Return a paused guest with two qcow2 disks and a raw one; its definition must stay as it is."""
    shared_guest.reset()
    return shared_guest


@pytest.fixture
def own_guest(make_guest: Guests) -> Iterator[Guest]:
    """Return such a guest for this test alone."""
    guest = three_disks(make_guest)
    yield guest
    make_guest.remove(guest)


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

    @staticmethod
    def open(disk: DiskSource) -> Any:
        return READERS[disk.source.reader](disk.source)

    def read_disk(self, disk: DiskSource) -> int:
        reader = self.open(disk)
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
