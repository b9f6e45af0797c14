"""Whole machines back into libvirt, and what is not taken over from a stranger's definition."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from vbr_kvm.configuration import KvmConfiguration, pack, unpack
from vbr_kvm.connection import parse
from vbr_kvm.mover import READERS, WRITERS
from vbrcore.model.errors import AlreadyExists, InvalidValue
from vbrcore.plugins.api import RestoreDisk, RestorePlan, RestoreRequest

MIB = 1 << 20
FLASH_BYTES = 2 * MIB


@pytest.fixture(scope="module")
def source(make_guest: Callable[[], Any]) -> Any:
    """A machine that is off, with NVRAM, a TPM that was used and things that reach the host."""
    guest = make_guest()
    guest.add_disk("vda", "qcow2", 8 * MIB)
    guest.add_disk("vdb", "raw", 4 * MIB)
    code, variables = guest.directory / "code.fd", guest.directory / "vars.fd"
    code.write_bytes(bytes(FLASH_BYTES))
    variables.write_bytes(b"variables".ljust(FLASH_BYTES, b"\0"))
    guest.define(
        "<interface type='user'><mac address='52:54:00:11:22:33'/><model type='virtio'/></interface>"
        "<serial type='file'><source path='/var/log/libvirt/qemu/vbrtest.log'/></serial>"
        "<filesystem type='mount'><source dir='/etc'/><target dir='etc'/></filesystem>"
        "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>"
        "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>",
        f"<loader readonly='yes' type='pflash'>{code}</loader><nvram>{variables}</nvram>",
    )
    guest.start()
    guest.domain.destroy()
    return guest


@pytest.fixture
def restore(libvirt_connection: Any, source: Any, make_line: Callable[..., Any]) -> Iterator[Any]:
    line = make_line(source)
    made = Restore(source, line)
    yield made
    for name in made.names:
        if name != source.name:
            source.remove_domain(libvirt_connection, name)
            for path in source.directory.glob(f"{name}*"):
                path.unlink()


class Restore:
    """A point of the source, and restores of it into its own directory."""

    def __init__(self, source: Any, line: Any) -> None:
        source.write("vda", MIB, 65536, 5)
        source.write("vdb", 2 * MIB, 512, 6)
        self.source = source
        self.hypervisor = line.hypervisor
        self.machine = line.machine()
        plan, snapshot = line.take()
        line.read(snapshot)
        spec = snapshot.configuration
        reader: Any = READERS[spec.reader](spec)
        self.warnings = snapshot.warnings
        self.configuration: bytes = reader.read()
        self.image = line.image
        self.disks = tuple(RestoreDisk(one.disk_id, one.name, one.size_bytes) for one in snapshot.disks)
        line.commit(plan, snapshot)
        self.names: list[str] = []

    def request(self, name: str = "", **options: str) -> RestoreRequest:
        name = name or f"{self.source.name}-back"
        self.names.append(name)
        options = {"directory": str(self.source.directory), **options}
        return RestoreRequest(name, "kvm", self.configuration, self.disks, options)

    def write(self, plan: RestorePlan) -> None:
        for disk_id, sink in plan.sinks.items():
            writer = WRITERS[sink.writer](sink)
            try:
                for offset in range(0, sink.size_bytes, MIB):
                    writer.write_from(offset, memoryview(self.image[disk_id])[offset : offset + MIB])
                writer.finish()
            finally:
                writer.close()

    def run(self, request: RestoreRequest) -> tuple[Any, RestorePlan]:
        plan = self.hypervisor.plan_restore(request)
        self.write(plan)
        machine_id = self.hypervisor.create_machine(request, plan)
        return self.source.connection.lookupByUUIDString(machine_id), plan


def test_a_machine_is_rebuilt_from_what_is_allowed(restore: Restore) -> None:
    domain, plan = restore.run(restore.request())
    xml = parse(domain.XMLDesc(0))
    assert plan.left_out == (
        "devices/console (file)",
        "devices/filesystem (mount)",
        "devices/serial (file)",
        "os/loader (not on this host: libvirt chooses the firmware)",
    )
    assert domain.name() == f"{restore.source.name}-back"
    assert domain.UUIDString() != restore.machine.machine_id
    assert xml.findtext("devices/rng/backend") == "/dev/urandom"
    mac = xml.find("devices/interface/mac")
    assert mac is not None
    assert mac.get("address") != "52:54:00:11:22:33"
    assert [node.get("file") for node in xml.findall("devices/disk/source")] == [
        str(restore.source.directory / f"{domain.name()}-vda.qcow2"),
        str(restore.source.directory / f"{domain.name()}-vdb.raw"),
    ]


def test_a_trusted_definition_is_taken_as_it_is(restore: Restore) -> None:
    assert restore.warnings == ()
    request = restore.request(trust_configuration="yes")
    domain, plan = restore.run(request)
    xml = parse(domain.XMLDesc(0))
    assert plan.left_out == ()
    assert xml.find("devices/filesystem") is not None
    variables = Path(xml.findtext("os/nvram") or "")
    assert variables == restore.source.directory / f"{domain.name()}_VARS.fd"
    assert variables.read_bytes().startswith(b"variables")
    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_KEEP_NVRAM)
    restore.hypervisor.remove_machine(plan)
    assert not variables.exists()


def test_nothing_is_overwritten(restore: Restore) -> None:
    with pytest.raises(AlreadyExists):
        restore.hypervisor.plan_restore(restore.request(restore.source.name))
    request = restore.request()
    taken = restore.source.directory / f"{request.name}-vda.qcow2"
    taken.write_bytes(b"somebody's")
    with pytest.raises(AlreadyExists):
        restore.hypervisor.plan_restore(request)
    assert taken.read_bytes() == b"somebody's"


def test_a_failed_restore_is_undone(restore: Restore) -> None:
    before = set(restore.source.directory.iterdir())
    request = restore.request()
    _, plan = restore.run(request)
    restore.hypervisor.remove_machine(plan)
    restore.hypervisor.remove_machine(plan)
    assert set(restore.source.directory.iterdir()) == before
    assert request.name not in [one.name for one in restore.hypervisor.inventory()]


def test_disks_of_another_hypervisor_get_sensible_hardware(restore: Restore) -> None:
    request = RestoreRequest(
        f"{restore.source.name}-foreign",
        "images",
        b"",
        tuple(RestoreDisk(f"{one.name}.vmdk", f"{one.name}.vmdk", one.size_bytes) for one in restore.disks),
        {"directory": str(restore.source.directory), "memory_mib": "256", "vcpus": "1"},
    )
    restore.names.append(request.name)
    plan = restore.hypervisor.plan_restore(request)
    restore.image |= {f"{name}.vmdk": restore.image[name] for name in ("vda", "vdb")}
    restore.write(plan)
    machine_id = restore.hypervisor.create_machine(request, plan)
    disks = next(one for one in restore.hypervisor.inventory() if one.machine_id == machine_id).disks
    assert [(one.name, one.size_bytes) for one in disks] == [("sda", 8 * MIB), ("sdb", 4 * MIB)]


def test_what_is_kept_is_what_is_needed(restore: Restore) -> None:
    kept = unpack(restore.configuration)
    assert kept.nvram.startswith(b"variables")
    assert f"<name>{restore.source.name}</name>" in kept.xml


@pytest.mark.parametrize(
    "options",
    [{"colour": "red"}, {"format": "vmdk"}, {"directory": "images"}, {"directory": "/nowhere/at/all"}],
)
def test_wrong_options_are_refused(restore: Restore, options: dict[str, str]) -> None:
    with pytest.raises(InvalidValue):
        restore.hypervisor.plan_restore(restore.request(**options))


@pytest.mark.parametrize(
    "hostile",
    [
        "<!DOCTYPE domain [<!ENTITY a 'b'>]><domain><os><type>hvm</type></os><memory>1</memory></domain>",
        "<domain type='kvm'><name>x</name></domain>",
        "<pool/>",
        "no xml",
    ],
)
def test_a_definition_that_is_none_is_refused(restore: Restore, hostile: str) -> None:
    request = restore.request()
    kept = pack(KvmConfiguration(1, hostile))
    with pytest.raises(InvalidValue):
        restore.hypervisor.plan_restore(RestoreRequest(request.name, "kvm", kept, (), request.options))


def test_the_original_machine_comes_back_and_starts(restore: Restore) -> None:
    """The last one: it takes the place of the source. Its TPM starts from the state that was kept."""
    assert unpack(restore.configuration).tpm
    restore.source.domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
    restore.source.domain = None
    request = restore.request(restore.source.name, trust_configuration="yes")
    domain, plan = restore.run(request)
    assert domain.UUIDString() == restore.machine.machine_id == plan.machine_id
    restore.hypervisor.power_on(plan.machine_id)
    restore.hypervisor.power_on(plan.machine_id)
    assert domain.isActive()
    disks = next(one for one in restore.hypervisor.inventory() if one.machine_id == plan.machine_id).disks
    assert [(one.name, one.size_bytes) for one in disks] == [("vda", 8 * MIB), ("vdb", 4 * MIB)]
