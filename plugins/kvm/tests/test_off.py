"""Machines that are off: read in place, without hindering their start."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from vbrcore.model.errors import SnapshotInvalid

MIB = 1 << 20


@pytest.fixture
def off_guest(make_guest: Any) -> Iterator[Any]:
    guest = make_guest()
    guest.add_disk("vda", "qcow2", 16 * MIB)
    guest.add_disk("vdb", "raw", 8 * MIB)
    guest.define()
    yield guest
    make_guest.remove(guest)


def test_images_are_read_in_place(off_guest: Any, make_line: Callable[..., Any]) -> None:
    off_guest.write("vda", MIB, 65536, 1)
    off_guest.write("vdb", 2 * MIB, 65536, 2)
    line = make_line(off_guest)
    snapshot = line.point()
    assert [(one.since, one.change_id, one.full_reason) for one in snapshot.disks] == [("", "", "")] * 2
    assert [bytes(line.image[name]) for name in ("vda", "vdb")] == [off_guest.content(name) for name in ("vda", "vdb")]
    assert [one.state for one in line.hypervisor.inventory() if one.name == off_guest.name] == ["off"]


def test_the_machine_can_start_meanwhile_and_the_point_is_refused(
    off_guest: Any, make_line: Callable[..., Any]
) -> None:
    line = make_line(off_guest)
    plan, snapshot = line.take()
    reader: Any = line.open(snapshot.disks[0])
    off_guest.start()
    reader.close()
    with pytest.raises(SnapshotInvalid, match="started"):
        line.hypervisor.confirm_snapshot(plan)
    line.hypervisor.release_snapshot(plan, committed=False)
    assert line.point().disks[0].change_id


def test_a_written_image_makes_the_point_invalid(off_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(off_guest)
    plan, _ = line.take()
    off_guest.write("vdb", 0, 512, 7)
    with pytest.raises(SnapshotInvalid, match="changed"):
        line.hypervisor.confirm_snapshot(plan)


def test_a_change_of_state_since_the_plan_is_noticed(off_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(off_guest)
    request = line.request()
    plan = line.hypervisor.plan_snapshot(request)
    off_guest.start()
    with pytest.raises(SnapshotInvalid, match="started meanwhile"):
        line.hypervisor.take_snapshot(request, plan)


def test_tracking_goes_on_over_a_point_of_the_stopped_machine(off_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(off_guest)
    off_guest.start()
    base = line.point().disks[0].change_id
    off_guest.write("vda", 3 * MIB, 65536, 3)
    off_guest.domain.destroy()
    between = line.point()
    assert (between.disks[0].since, between.disks[0].change_id) == ("", base)
    off_guest.start()
    off_guest.write("vda", 5 * MIB, 65536, 4)
    last = line.point()
    assert last.disks[0].since == base
    assert line.read_bytes["vda"] == 2 * 65536
    assert bytes(line.image["vda"]) == off_guest.content("vda")
    assert off_guest.checkpoints() == [last.disks[0].change_id]


def test_what_is_skipped_says_why(make_guest: Callable[[], Any], make_line: Callable[..., Any]) -> None:
    guest = make_guest()
    guest.add_disk("vda", "qcow2", MIB)
    lost = guest.add_disk("vdb", "qcow2", MIB)
    read_only = guest.add_disk("vdc", "raw", MIB)
    guest.disks.pop()
    guest.define(
        f"<disk type='file' device='disk'><source file='{read_only}'/><target dev='vdc' bus='virtio'/>"
        "<readonly/></disk>"
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/><source protocol='nbd' name='far'>"
        "<host name='127.0.0.1' port='1'/></source><target dev='vdd' bus='virtio'/></disk>"
        "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/><readonly/></disk>"
    )
    lost.unlink()
    disks = {one.name: one for one in make_line(guest).machine().disks}
    assert list(disks) == ["vda", "vdb", "vdc", "vdd"]
    assert (disks["vda"].skipped, disks["vda"].size_bytes) == ("", MIB)
    assert disks["vda"].datastore == str(guest.directory)
    assert "cannot be opened" in disks["vdb"].skipped
    assert disks["vdc"].skipped == "read-only"
    assert "only while the machine runs" in disks["vdd"].skipped
