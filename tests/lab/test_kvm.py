"""Machines on other hosts: backed up through the tunnel, restored onto each other, one host without any Python."""

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.lab.guests import HOSTS, IMAGES, MIB, RemoteGuest, content_of
from vbr_kvm.mover import READERS, WRITERS
from vbr_kvm.plugin import PLUGIN
from vbr_kvm.settings import KvmSettings
from vbrcore.model.errors import HostKeyChanged, InvalidValue, OutputRefused, SourceReadFailed, VbrError
from vbrcore.model.ids import new_id
from vbrcore.model.inventory import Machine, SshAccess
from vbrcore.plugins.api import (
    BaseDisk,
    Confinement,
    Hypervisor,
    ManagedHost,
    Plugin,
    RestoreDisk,
    RestoreRequest,
    SinkSpec,
    Snapshot,
    SnapshotPlan,
    SnapshotRequest,
    SourceSpec,
)
from vbrcore.testing.conformance import HypervisorConformance, MachineUnderTest, MakeMachine


def managed(lab: Any, name: str, user: str = "root") -> ManagedHost:
    host = lab.hosts[name]
    access = SshAccess(host["address"], user, host["host_key"], login="identity")
    return ManagedHost(name, access, {"identity": lab.identity.read_text("ascii")})


def connect(lab: Any, name: str, user: str = "root") -> Hypervisor:
    host = managed(lab, name, user)
    uri = f"qemu+ssh://{user}@{host.access.host}/system"
    return PLUGIN.connect(KvmSettings(uri=uri, scratch_reserve_bytes=1), {}, host)


@pytest.fixture(params=HOSTS)
def guest(lab: Any, request: pytest.FixtureRequest) -> Iterator[RemoteGuest]:
    """A guest that is off, on each of the hosts."""
    made = RemoteGuest(lab, request.param, f"web-{new_id()[:8]}")
    made.define((8 * MIB, 3 * MIB))
    try:
        yield made
    finally:
        made.remove()


def machine_of(connection: Hypervisor, name: str) -> Machine:
    return next(one for one in connection.inventory() if one.name == name)


class Line:
    """What a job manager does with one machine, point after point."""

    def __init__(self, connection: Hypervisor, name: str) -> None:
        self.connection = connection
        self.name = name
        self.job_id = new_id()
        self.base: tuple[BaseDisk, ...] = ()
        self.disks: dict[str, bytearray] = {}
        self.read_bytes = 0
        self.configuration = b""

    def take(self) -> tuple[SnapshotPlan, Snapshot]:
        request = SnapshotRequest(
            self.job_id, new_id(), 1, machine_of(self.connection, self.name), quiesce=False, base=self.base
        )
        plan = self.connection.plan_snapshot(request)
        return plan, self.connection.take_snapshot(request, plan)

    def point(self) -> Snapshot:
        plan, snapshot = self.take()
        self.read_bytes = 0
        for disk in snapshot.disks:
            self._read(disk.disk_id, disk.since, disk.source_for("tunnel"))
        spec = _travelled(snapshot.configuration)
        self.configuration = READERS[spec.reader](spec).read()  # type: ignore[union-attr]
        self.connection.confirm_snapshot(plan)
        self.base = tuple(BaseDisk(disk.disk_id, disk.size_bytes, disk.change_id) for disk in snapshot.disks)
        self.connection.release_snapshot(plan, committed=True)
        return snapshot

    def _read(self, disk_id: str, since: str, spec: SourceSpec) -> None:
        reader: Any = READERS[spec.reader](_travelled(spec))
        try:
            content = self.disks.setdefault(disk_id, bytearray(reader.size_bytes))
            for extent in reader.extents(since):
                part = memoryview(content)[extent.offset : extent.offset + extent.length]
                if extent.state == "data":
                    reader.read_into(extent.offset, part)
                    self.read_bytes += extent.length
                elif extent.state == "zero":
                    part[:] = bytes(extent.length)
        finally:
            reader.close()


def _travelled(spec: SourceSpec | None) -> SourceSpec:
    """What goes to a mover is plain data."""
    assert spec is not None
    return msgspec.msgpack.decode(msgspec.msgpack.encode(spec), type=SourceSpec)


def restore(lab: Any, line: Line, host: str, name: str) -> None:
    """Make the machine of a line's newest point on another host, written through the tunnel; compare every byte."""
    disks = tuple(RestoreDisk(disk_id, disk_id, len(data)) for disk_id, data in line.disks.items())
    request = RestoreRequest(name, "kvm", line.configuration, disks, {"new_identity": "yes"})
    with contextlib.closing(connect(lab, host)) as target:
        plan = target.plan_restore(request)
        for disk_id, data in line.disks.items():
            spec = plan.sinks[disk_id]
            writer = WRITERS[spec.writer](spec)
            for offset in range(0, len(data), MIB):
                block = data[offset : offset + MIB]
                if block.strip(b"\0"):
                    writer.write_from(offset, memoryview(block))
            writer.finish()
            writer.close()
        machine_id = target.create_machine(request, plan)
        made = machine_of(target, name)
        assert made.machine_id == machine_id
        assert [disk.size_bytes for disk in made.disks] == [len(data) for data in line.disks.values()]
    for disk_id, data in line.disks.items():
        assert content_of(lab, host, f"{IMAGES}/{name}-{disk_id}.qcow2") == data


def test_full_increment_and_off_restored_onto_the_other_host(lab: Any, guest: RemoteGuest) -> None:
    other = next(name for name in HOSTS if name != guest.host)
    guest.start()
    guest.write(0, MIB, b"first" * 20000)
    guest.write(1, 0, b"second disk" * 1000)
    with contextlib.closing(connect(lab, guest.host)) as connection:
        line = Line(connection, guest.name)
        first = line.point()
        assert not any(disk.since for disk in first.disks)
        assert [bytes(data) for data in line.disks.values()] == [guest.content(0), guest.content(1)]
        full_bytes = line.read_bytes
        guest.write(0, 5 * MIB, b"changed" * 100)
        second = line.point()
        assert all(disk.since for disk in second.disks)
        assert line.read_bytes < full_bytes
        assert [bytes(data) for data in line.disks.values()] == [guest.content(0), guest.content(1)]
        guest.virsh("destroy", guest.name)
        guest.write(1, 2 * MIB, b"written while off" * 1000)
        off = line.point()
        assert {disk.source.reader for disk in off.disks} == {"image-tunnel"}
        assert [bytes(data) for data in line.disks.values()] == [guest.content(0), guest.content(1)]
    restored = RemoteGuest(lab, other, f"{guest.name}-restored")
    try:
        restore(lab, line, other, restored.name)
    finally:
        restored.remove()
    assert guest.left_over().replace(first.disks[0].change_id, "").replace(second.disks[0].change_id, "") == ""


def test_a_link_cut_in_the_middle_is_one_error_and_leaves_nothing(lab: Any, guest: RemoteGuest) -> None:
    guest.start()
    guest.write(0, 0, b"data" * MIB)
    connection = connect(lab, guest.host)
    line = Line(connection, guest.name)
    plan, snapshot = line.take()
    spec = snapshot.disks[0].source
    reader: Any = READERS[spec.reader](spec)
    reader.read_into(0, memoryview(bytearray(MIB)))
    lab.cut(guest.host)
    with pytest.raises(SourceReadFailed):
        _read_on(reader)
    reader.close()
    with pytest.raises(VbrError):
        connection.release_snapshot(plan, committed=False)
    connection.close()
    lab.mend(guest.host)
    with contextlib.closing(connect(lab, guest.host)) as again:  # as the clean-up from the journal does
        again.release_snapshot(plan, committed=False)
        assert not again.orphans(line.job_id, frozenset())
    assert guest.left_over() == ""


def _read_on(reader: Any) -> None:
    while True:
        reader.read_into(0, memoryview(bytearray(MIB)))


def test_a_sink_that_was_not_finished_leaves_nothing_and_nothing_is_overwritten(lab: Any, guest: RemoteGuest) -> None:
    request = RestoreRequest("sink", "images", b"", (RestoreDisk("d", "d", MIB),))
    with contextlib.closing(connect(lab, guest.host)) as connection:
        plan = connection.plan_restore(request)
    spec = plan.sinks["d"]
    writer = WRITERS[spec.writer](spec)
    writer.write_from(0, memoryview(b"x" * 65536))
    writer.close()
    assert guest.left_over() == ""
    path = str(spec.settings["path"])
    lab.exec(guest.host, "sh", "-c", 'echo precious >"$1"', "sh", path)
    with pytest.raises(VbrError, match="exists already"):
        WRITERS[spec.writer](spec)
    assert lab.exec(guest.host, "cat", path) == "precious\n"
    lab.exec(guest.host, "rm", path)
    assert guest.left_over() == ""


def test_a_sink_keeps_to_its_confinement(lab: Any, guest: RemoteGuest) -> None:
    host = managed(lab, guest.host)
    lab.exec(guest.host, "sh", "-c", "mkdir -p /srv/allowed/inner /srv/outside; ln -sfn /srv/outside /srv/allowed/link")

    def sink(path: str, confinement: Confinement) -> SinkSpec:
        with contextlib.closing(connect(lab, guest.host)) as connection:
            request = RestoreRequest("x", "images", b"", (RestoreDisk("d", "d", MIB),), {"directory": "/srv/allowed"})
            made = connection.plan_restore(request).sinks["d"]
        return msgspec.structs.replace(
            made, settings=made.settings | {"path": path}, secrets=host.secrets, confinement=confinement
        )

    allowed = Confinement(("/srv/allowed",))
    for path in ("/srv/outside/x.qcow2", "/srv/allowed/link/x.qcow2", "/srv/allowed/../outside/x.qcow2"):
        with pytest.raises(OutputRefused):
            WRITERS["image-tunnel"](sink(path, allowed))
    writer = WRITERS["image-tunnel"](sink("/srv/allowed/inner/x.qcow2", allowed))
    writer.finish()
    writer.close()
    assert lab.exec(guest.host, "find", "/srv", "-name", "x.qcow2").split() == ["/srv/allowed/inner/x.qcow2"]
    lab.exec(guest.host, "rm", "-r", "/srv/allowed", "/srv/outside")


def test_what_cannot_be_connected_is_said(lab: Any) -> None:
    host = managed(lab, "kvm1")
    with pytest.raises(InvalidValue, match="--server"):
        PLUGIN.check(KvmSettings(uri="qemu+ssh://root@kvm1/system"), has_host=False)
    with pytest.raises(InvalidValue, match="is not server kvm1"):
        PLUGIN.connect(KvmSettings(uri="qemu+ssh://root@elsewhere/system"), {}, host)
    other = msgspec.structs.replace(host.access, host_key=lab.hosts["kvm2"]["host_key"])
    with pytest.raises(HostKeyChanged):
        PLUGIN.connect(KvmSettings(), {}, ManagedHost("kvm1", other, host.secrets))
    with pytest.raises(VbrError, match="usermod -aG libvirt"):
        connect(lab, "kvm1", lab.user)
    assert "PRIVATE" not in repr(host)


class TestConformanceThroughTheTunnel(HypervisorConformance):
    """The kit, with a running machine on the host that has no Python."""

    @pytest.fixture
    def plugin(self) -> Plugin:
        return PLUGIN

    @pytest.fixture
    def host(self, lab: Any) -> ManagedHost | None:
        return managed(lab, "kvm2")

    @pytest.fixture
    def connection(self, lab: Any) -> Iterator[Hypervisor]:
        opened = connect(lab, "kvm2")
        yield opened
        opened.close()

    @pytest.fixture(scope="class")
    @classmethod
    def machine(cls, shared_lab: Any) -> Iterator[RemoteGuest]:
        made = RemoteGuest(shared_lab, "kvm2", f"kit-{new_id()[:8]}")
        made.define(tuple(cls.sizes))
        made.start()
        yield made
        made.remove()

    @pytest.fixture
    def make_machine(self, machine: RemoteGuest) -> Iterator[MakeMachine]:
        def make(sizes: Any) -> MachineUnderTest:
            assert list(sizes) == list(self.sizes)
            machine.reset()
            return machine

        yield make
        RemoteGuest(machine.lab, machine.host, f"{machine.name}-restored").remove()
