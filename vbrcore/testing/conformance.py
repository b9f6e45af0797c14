"""The conformance kit: what every hypervisor plugin must do, as a pytest class to subclass. See docs/plugins.md.

A subclass gives three fixtures: `plugin`, `connection` and `make_machine`. The level of a test is in its name: L0
inventory and promises of form, L1 full reads and snapshots, L2 change tracking, L3 restore. What a plugin does not
claim as a capability is skipped by name.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Protocol, Self, TypeVar

import msgspec
import pytest

from vbrcore.model.errors import AlreadyExists, MachineNotFound, SnapshotInvalid, TrackingLost
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import (
    API_VERSION,
    BaseDisk,
    Capability,
    DiskSource,
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
from vbrcore.plugins.loader import mover_half
from vbrcore.plugins.mover import ConfigurationReader, Extent, Reader, Writer

MIB = 1024 * 1024
JOB_ID = "c0f0c0f0-0000-4000-8000-000000000001"

Value = TypeVar("Value")


class MachineUnderTest(Protocol):
    """A machine that exists on the hypervisor, with disks in the order of the sizes that were asked for."""

    name: str

    def content(self, disk: int) -> bytes:
        """Return every byte of a disk as the guest sees it now: the oracle, not read through the plugin."""

    def write(self, disk: int, offset: int, data: bytes) -> None:
        """Write as the guest would."""


MakeMachine = Callable[[Sequence[int]], MachineUnderTest]


class HypervisorConformance:
    """Subclass it as `class TestMine(HypervisorConformance)` and override the first three fixtures."""

    sizes: Sequence[int] = (8 * MIB, 3 * MIB)  # of the disks that are asked for, in bytes

    @pytest.fixture
    def plugin(self) -> Plugin:
        raise NotImplementedError

    @pytest.fixture
    def connection(self) -> Iterator[Hypervisor]:
        raise NotImplementedError

    @pytest.fixture
    def host(self) -> ManagedHost | None:
        """The managed server that the connection is tied to, where it is."""
        return None

    @pytest.fixture
    def make_machine(self) -> MakeMachine:
        raise NotImplementedError

    @pytest.fixture
    def mover(self, plugin: Plugin) -> ModuleType:
        return mover_half(plugin.info.plugin_id)

    @pytest.fixture
    def guest(self, make_machine: MakeMachine) -> MachineUnderTest:
        """A machine with data, zeros that were written and ranges that never were."""
        guest = make_machine(self.sizes)
        random_bytes = random.Random(1)  # noqa: S311 - repeatable content, not a secret
        for disk, size in enumerate(self.sizes):
            guest.write(disk, 0, random_bytes.randbytes(4096))
            guest.write(disk, MIB - 512, random_bytes.randbytes(1024))
            guest.write(disk, 2 * MIB, bytes(65536))
            guest.write(disk, size - 512, random_bytes.randbytes(512))
        return guest

    # --- L0: inventory and form -------------------------------------------------------------------

    def test_l0_plugin_describes_itself(self, plugin: Plugin) -> None:
        assert plugin.info.api_version.split(".")[0] == API_VERSION.split(".")[0]
        assert issubclass(plugin.info.config, msgspec.Struct)
        msgspec.json.schema(plugin.info.config)
        assert not set(plugin.info.secrets) & {field.name for field in msgspec.structs.fields(plugin.info.config)}

    def test_l0_inventory_is_stable(self, connection: Hypervisor, guest: MachineUnderTest) -> None:
        first, second = connection.inventory(), connection.inventory()
        assert list(first) == list(second)
        assert len({machine.machine_id for machine in first}) == len(first)
        machine = _named(first, guest.name)
        assert [disk.size_bytes for disk in machine.disks] == list(self.sizes)
        assert len({disk.disk_id for disk in machine.disks}) == len(machine.disks)

    def test_l0_some_mode_reads_it_here(
        self, plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, host: ManagedHost | None
    ) -> None:
        assert plugin.transport_modes(_named(connection.inventory(), guest.name), "local", host)

    def test_l0_every_offered_mode_has_a_source(
        self, plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, host: ManagedHost | None
    ) -> None:
        servers = ["local"] if host is None else ["local", host.name]
        with _Taken(connection, guest.name) as taken:
            machine = _named(connection.inventory(), guest.name)
            for server in servers:
                for mode in plugin.transport_modes(machine, server, host):
                    for disk in taken.snapshot.disks:
                        assert disk.source_for(mode).plugin == plugin.info.plugin_id

    def test_l1_no_plan_holds_a_secret(
        self, connection: Hypervisor, guest: MachineUnderTest, host: ManagedHost | None
    ) -> None:
        """Plans of snapshots are journaled."""
        with _Taken(connection, guest.name) as taken:
            journaled = msgspec.msgpack.encode(taken.plan)
        for secret in host.secrets.values() if host is not None else ():
            assert secret.encode() not in journaled

    def test_l0_an_unknown_machine_is_not_found(self, connection: Hypervisor) -> None:
        nobody = Machine("7c2f3a52-nobody", "7c2f3a52-nobody")
        with pytest.raises(MachineNotFound):
            connection.plan_snapshot(_request(nobody, 1))

    # --- L1: full reads ---------------------------------------------------------------------------

    def test_l1_full_read_is_the_content(
        self, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        with _Taken(connection, guest.name) as taken:
            for number, disk in enumerate(taken.snapshot.disks):
                reader = _open(mover, disk)
                assert reader.size_bytes == disk.size_bytes == self.sizes[number]
                assert _read_by_extents(reader, "", b"") == guest.content(number)
                reader.close()
                reader.close()  # idempotent
            connection.confirm_snapshot(taken.plan)

    def test_l1_extents_cover_without_gaps(
        self, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        with _Taken(connection, guest.name) as taken:
            for disk in taken.snapshot.disks:
                reader = _open(mover, disk)
                with ThreadPoolExecutor(4) as pool:
                    found = list(pool.map(lambda _, reader=reader: list(reader.extents("")), range(4)))
                reader.close()
                assert all(extents == found[0] for extents in found)
                _check_cover(found[0], disk.size_bytes)
                assert {extent.state for extent in found[0]} <= {"data", "zero"}

    def test_l1_reads_are_repeatable_from_several_threads(
        self, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        choose = random.Random(2)  # noqa: S311
        with _Taken(connection, guest.name) as taken:
            content = guest.content(0)
            reader = _open(mover, taken.snapshot.disks[0])
            ranges = [(choose.randrange(len(content)), choose.randint(1, 2 * MIB)) for _ in range(40)] * 2
            ranges += [(0, len(content)), (len(content) - 1, 1), (0, 1), (511, 2)]

            def read(at: tuple[int, int]) -> bool:
                offset, length = at[0], min(at[1], len(content) - at[0])
                # Garbage before, so that a part that is not filled shows.
                buffer = bytearray(b"\xa5" * (length + 2))
                reader.read_into(offset, memoryview(buffer)[1:-1])
                return buffer == b"\xa5" + content[offset : offset + length] + b"\xa5"

            with ThreadPoolExecutor(8) as pool:
                assert all(pool.map(read, ranges))
            reader.close()

    def test_l1_an_unknown_change_id_is_tracking_lost(
        self, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        with _Taken(connection, guest.name) as taken:
            reader = _open(mover, taken.snapshot.disks[0])
            with pytest.raises(TrackingLost):
                list(reader.extents("no-such-change-id"))
            reader.close()

    def test_l1_a_write_during_the_snapshot_is_kept_out_or_noticed(
        self, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        before = guest.content(0)
        with _Taken(connection, guest.name) as taken:
            guest.write(0, 4096, b"written during the snapshot" * 100)
            reader = _open(mover, taken.snapshot.disks[0])
            seen = _read_by_extents(reader, "", b"")
            reader.close()
            try:
                connection.confirm_snapshot(taken.plan)
            except SnapshotInvalid:
                return
            assert seen == before

    def test_l1_configuration_is_kept(
        self, plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        _needs(plugin, "configuration")
        with _Taken(connection, guest.name) as taken:
            assert taken.snapshot.configuration is not None
            spec = _as_in_another_process(taken.snapshot.configuration, SourceSpec)
            reader: ConfigurationReader = mover.READERS[spec.reader](spec)
            assert 0 < len(reader.read()) <= 64 * MIB

    # --- L1: snapshot hygiene ---------------------------------------------------------------------

    def test_l1_release_is_idempotent(self, connection: Hypervisor, guest: MachineUnderTest) -> None:
        with _Taken(connection, guest.name) as taken:
            for _ in range(2):
                connection.release_snapshot(taken.plan, committed=False)
            assert not connection.orphans(JOB_ID, frozenset())

    def test_l1_release_of_what_was_only_planned(self, connection: Hypervisor, guest: MachineUnderTest) -> None:
        request = _request(_named(connection.inventory(), guest.name), 1)
        plan = _as_in_another_process(connection.plan_snapshot(request), SnapshotPlan)
        connection.release_snapshot(plan, committed=False)
        assert not connection.orphans(JOB_ID, frozenset())

    def test_l1_planning_changes_nothing(self, connection: Hypervisor, guest: MachineUnderTest) -> None:
        before = connection.inventory()
        connection.plan_snapshot(_request(_named(before, guest.name), 1))
        assert connection.inventory() == before
        assert not connection.orphans(JOB_ID, frozenset())

    def test_l1_a_second_attempt_follows_a_released_one(
        self, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        with _Taken(connection, guest.name, attempt=1):
            pass
        with _Taken(connection, guest.name, attempt=2) as taken:
            reader = _open(mover, taken.snapshot.disks[0])
            assert _read_by_extents(reader, "", b"") == guest.content(0)
            reader.close()
        assert not connection.orphans(JOB_ID, frozenset())

    # --- L2: change tracking ----------------------------------------------------------------------

    def test_l2_changes_cover_the_true_difference(
        self, plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        _needs(plugin, "change_tracking")
        before = [guest.content(number) for number in range(len(self.sizes))]
        base: tuple[BaseDisk, ...] = ()
        with _Taken(connection, guest.name) as taken:
            base = tuple(BaseDisk(disk.disk_id, disk.size_bytes, disk.change_id) for disk in taken.snapshot.disks)
            taken.committed = True
        guest.write(0, MIB, b"changed" * 1000)
        guest.write(0, 2 * MIB + 65536, bytes(65536))
        with _Taken(connection, guest.name, attempt=2, base=base) as taken:
            for number, disk in enumerate(taken.snapshot.disks):
                if not disk.since:
                    assert disk.full_reason
                    continue
                reader = _open(mover, disk)
                _check_cover(list(reader.extents(disk.since)), disk.size_bytes)
                assert _read_by_extents(reader, disk.since, before[number]) == guest.content(number)
                reader.close()
            taken.committed = True

    # --- L3: restore ------------------------------------------------------------------------------

    def test_l3_a_restored_machine_has_the_content(
        self, plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        _needs(plugin, "create_machine")
        request, contents = _restore_request(plugin, connection, guest, mover)
        plan = connection.plan_restore(request)
        for disk in request.disks:
            _write(mover, plan.sinks[disk.disk_id], contents[disk.disk_id])
        machine_id = connection.create_machine(request, plan)
        created = next(machine for machine in connection.inventory() if machine.machine_id == machine_id)
        assert created.name == request.name
        with pytest.raises(AlreadyExists):
            connection.plan_restore(request)
        with _Taken(connection, request.name) as taken:
            for source, wanted in zip(taken.snapshot.disks, request.disks, strict=True):
                reader = _open(mover, source)
                assert _read_by_extents(reader, "", b"") == contents[wanted.disk_id]
                reader.close()

    def test_l3_a_failed_restore_leaves_nothing(
        self, plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
    ) -> None:
        _needs(plugin, "create_machine")
        before = connection.inventory()
        request, contents = _restore_request(plugin, connection, guest, mover)
        plan = connection.plan_restore(request)
        first = request.disks[0]
        _write(mover, plan.sinks[first.disk_id], contents[first.disk_id])
        for _ in range(2):
            connection.remove_machine(plan)
        assert connection.inventory() == before
        connection.plan_restore(request)  # the name is free


class _Taken:
    """A snapshot that is released at the end, from its plan as it would be after a crash."""

    def __init__(self, connection: Hypervisor, name: str, *, attempt: int = 1, base: tuple[BaseDisk, ...] = ()) -> None:
        request = _request(_named(connection.inventory(), name), attempt, base)
        self._connection = connection
        self.plan = _as_in_another_process(connection.plan_snapshot(request), SnapshotPlan)
        self.committed = False
        try:
            self.snapshot = _as_in_another_process(connection.take_snapshot(request, self.plan), Snapshot)
        except BaseException:
            connection.release_snapshot(self.plan, committed=False)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.release_snapshot(self.plan, committed=self.committed)


def _needs(plugin: Plugin, capability: Capability) -> None:
    if capability not in plugin.info.capabilities:
        pytest.skip(f"plugin {plugin.info.plugin_id} does not claim {capability}")


def _named(machines: Sequence[Machine], name: str) -> Machine:
    found = [machine for machine in machines if machine.name == name]
    assert len(found) == 1, f"machine {name} is there {len(found)} times"
    return found[0]


def _request(machine: Machine, attempt: int, base: tuple[BaseDisk, ...] = ()) -> SnapshotRequest:
    session_id = f"c0f0c0f0-0000-4000-8000-00000000000{attempt + 1}"
    return SnapshotRequest(JOB_ID, session_id, attempt, machine, quiesce=False, base=base)


def _as_in_another_process(value: Value, kind: type[Value]) -> Value:
    """What crosses to a mover or into the journal must survive as plain data."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind)


def _open(mover: ModuleType, disk: DiskSource) -> Reader:
    spec = _as_in_another_process(disk.source, SourceSpec)
    reader: Reader = mover.READERS[spec.reader](spec)
    return reader


def _check_cover(extents: Sequence[Extent], size_bytes: int) -> None:
    at = 0
    for extent in extents:
        assert extent.offset == at, f"gap or overlap at offset {at}"
        assert extent.length > 0
        at += extent.length
    assert at == size_bytes


def _read_by_extents(reader: Reader, since: str, before: bytes) -> bytes:
    """Build the content as a mover does: unchanged ranges from `before`, zeros unread, data read."""
    content = bytearray(before.ljust(reader.size_bytes, b"\0"))
    for extent in reader.extents(since):
        part = memoryview(content)[extent.offset : extent.offset + extent.length]
        if extent.state == "data":
            reader.read_into(extent.offset, part)
        elif extent.state == "zero":
            part[:] = bytes(extent.length)
    return bytes(content)


def _restore_request(
    plugin: Plugin, connection: Hypervisor, guest: MachineUnderTest, mover: ModuleType
) -> tuple[RestoreRequest, dict[str, bytes]]:
    contents = {}
    with _Taken(connection, guest.name) as taken:
        configuration = b""
        if taken.snapshot.configuration is not None:
            spec = taken.snapshot.configuration
            configuration = mover.READERS[spec.reader](spec).read()
        disks = tuple(RestoreDisk(disk.disk_id, disk.name, disk.size_bytes) for disk in taken.snapshot.disks)
        for number, disk in enumerate(disks):
            contents[disk.disk_id] = guest.content(number)
    request = RestoreRequest(
        f"{guest.name}-restored", plugin.info.plugin_id, configuration, disks, {"new_identity": "yes"}
    )
    return request, contents


def _write(mover: ModuleType, sink: SinkSpec, content: bytes) -> None:
    spec = _as_in_another_process(sink, SinkSpec)
    writer: Writer = mover.WRITERS[spec.writer](spec)
    try:
        for offset in range(0, len(content), MIB):
            block = content[offset : offset + MIB]
            if block.strip(b"\0"):
                writer.write_from(offset, memoryview(block))
            else:
                writer.zero(offset, len(block))
        writer.finish()
    finally:
        writer.close()
