"""Running machines: full, increments, one moment, and everything that costs a full of one disk."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt
import pytest

from vbr_kvm.hypervisor import KvmHypervisor
from vbrcore.model.errors import MachineBusy, ScratchFull, SnapshotInvalid
from vbrcore.plugins.api import Snapshot

MIB = 1 << 20


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def disk(snapshot: Snapshot, name: str) -> Any:
    return next(one for one in snapshot.disks if one.name == name)


def test_an_increment_reads_what_is_dirty(guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(guest)
    guest.write("vda", 1 * MIB, 65536, 1)
    guest.write("vdc", 2 * MIB, 65536, 2)
    full = line.point()
    assert [one.since for one in full.disks] == ["", "", ""]
    assert line.image["vda"][MIB : MIB + 65536] == b"\x01" * 65536
    assert guest.checkpoints() == [disk(full, "vda").change_id]
    assert disk(full, "vdc").change_id == ""
    guest.write("vda", 8 * MIB, 65536, 3)
    increment = line.point()
    assert disk(increment, "vda").since == disk(full, "vda").change_id
    assert (disk(increment, "vda").full_reason, disk(increment, "vdc").full_reason) == ("", "")
    assert line.read_bytes["vda"] == 65536
    assert line.read_bytes["vdb"] == 0
    assert line.image["vda"][8 * MIB : 8 * MIB + 65536] == b"\x03" * 65536
    assert guest.checkpoints() == [disk(increment, "vda").change_id]


def test_a_write_during_the_backup_belongs_to_the_next_point(guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(guest)
    for target in ("vda", "vdc"):
        guest.write(target, 4 * MIB, 65536, 1)
    plan, snapshot = line.take()
    for target in ("vda", "vdc"):
        guest.write(target, 4 * MIB, 65536, 9)
    line.read(snapshot)
    assert line.image["vda"][4 * MIB : 4 * MIB + 65536] == b"\x01" * 65536
    assert line.image["vdc"][4 * MIB : 4 * MIB + 65536] == b"\x01" * 65536
    line.commit(plan, snapshot)
    line.point()
    assert line.read_bytes["vda"] == 65536
    assert line.image["vda"][4 * MIB : 4 * MIB + 65536] == b"\x09" * 65536
    assert line.image["vdc"][4 * MIB : 4 * MIB + 65536] == b"\x09" * 65536


def test_bitmaps_survive_a_restart(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    full = line.point()
    own_guest.write("vda", 5 * MIB, 65536, 5)
    own_guest.restart()
    increment = line.point()
    assert disk(increment, "vda").since == disk(full, "vda").change_id
    assert line.read_bytes["vda"] == 65536


def test_a_killed_qemu_costs_a_full_and_says_why(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    old = line.point()
    own_guest.write("vda", 6 * MIB, 65536, 6)
    os.kill(own_guest.pid(), signal.SIGKILL)
    wait_until(lambda: not own_guest.domain.isActive(), "the domain is off")
    own_guest.start()
    full = line.point()
    assert disk(full, "vda").since == ""
    assert "broken" in disk(full, "vda").full_reason
    assert line.image["vda"][6 * MIB : 6 * MIB + 65536] == b"\x06" * 65536
    assert own_guest.checkpoints() == [disk(full, "vda").change_id]
    assert disk(old, "vda").change_id not in own_guest.image_bitmaps("vda")
    assert line.point().disks[0].since == disk(full, "vda").change_id


def test_a_failed_session_leaves_the_older_base(guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(guest)
    base = line.point()
    plan, _ = line.take()
    line.hypervisor.release_snapshot(plan, committed=False)
    line.hypervisor.release_snapshot(plan, committed=False)
    assert guest.checkpoints() == [disk(base, "vda").change_id]
    assert not Path(str(plan.data["socket"])).parent.exists()
    assert list(Path(str(plan.data["scratch"])).iterdir()) == []
    assert disk(line.point(), "vda").since == disk(base, "vda").change_id


def test_release_works_in_another_process_from_the_plan(guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(guest)
    base = line.point()
    plan, snapshot = line.take()
    line.close()
    other = KvmHypervisor(line.settings)
    try:
        other.confirm_snapshot(plan)
        other.release_snapshot(plan, committed=True)
        assert guest.checkpoints() == [disk(snapshot, "vda").change_id] != [disk(base, "vda").change_id]
        with pytest.raises(SnapshotInvalid):
            other.confirm_snapshot(plan)
    finally:
        other.close()


def test_a_left_over_job_of_ours_is_ended(guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(guest)
    left, _ = line.take()
    assert [one.data["name"] for one in line.hypervisor.orphans(line.job_id, frozenset())] == [left.data["name"]]
    plan, snapshot = line.take()
    with pytest.raises(SnapshotInvalid):
        line.hypervisor.confirm_snapshot(left)
    line.read(snapshot)
    line.commit(plan, snapshot)
    line.hypervisor.release_snapshot(left, committed=False)
    assert guest.checkpoints() == [disk(snapshot, "vda").change_id]


def test_a_job_of_somebody_else_makes_the_machine_busy(guest: Any, make_line: Callable[..., Any]) -> None:
    line, other = make_line(guest), make_line(guest)
    plan, _ = other.take()
    with pytest.raises(MachineBusy):
        line.take()
    assert line.hypervisor.orphans(line.job_id, frozenset()) == []
    other.hypervisor.confirm_snapshot(plan)
    other.hypervisor.release_snapshot(plan, committed=False)


def test_foreign_checkpoints_and_those_of_other_jobs_are_not_touched(guest: Any, make_line: Callable[..., Any]) -> None:
    foreign = (
        "<domaincheckpoint><name>mine</name><disks><disk name='vda' checkpoint='bitmap'/></disks></domaincheckpoint>"
    )
    guest.domain.checkpointCreateXML(foreign, 0)
    line, other = make_line(guest), make_line(guest)
    kept = disk(other.point(), "vda").change_id
    line.point()
    last = line.point()
    assert set(guest.checkpoints()) == {"mine", kept, disk(last, "vda").change_id}
    guest.write("vda", 9 * MIB, 65536, 7)
    assert disk(other.point(), "vda").since == kept
    assert other.read_bytes["vda"] == 65536
    assert {"mine", disk(last, "vda").change_id} < guest.image_bitmaps("vda")


def test_a_resized_disk_is_compared_in_full_alone(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    base = line.point()
    own_guest.domain.blockResize("vdb", 48 * MIB, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    own_guest.write("vdb", 40 * MIB, 65536, 4)
    point = line.point()
    assert disk(point, "vdb").full_reason == f"resized from {32 * MIB} to {48 * MIB} bytes"
    assert disk(point, "vda").since == disk(base, "vda").change_id
    assert line.image["vdb"][40 * MIB : 40 * MIB + 65536] == b"\x04" * 65536


def test_new_detached_and_replaced_disks(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    line.point()
    own_guest.add_disk("vdd", "qcow2", 8 * MIB)
    own_guest.domain.attachDevice(own_guest.xml_of("vdd"))
    point = line.point()
    assert disk(point, "vdd").full_reason == "the disk is new: it was not in the last point"
    assert disk(point, "vda").full_reason == ""
    detached = own_guest.disks.pop(1)
    own_guest.domain.destroy()
    own_guest.define()
    own_guest.start()
    point = line.point()
    assert [one.name for one in point.disks] == ["vda", "vdc", "vdd"]
    assert len(own_guest.checkpoints()) == 1
    own_guest.domain.attachDevice(own_guest.disk_xml(*detached))
    own_guest.disks.insert(1, detached)
    assert "new" in disk(line.point(), "vdb").full_reason
    own_guest.domain.destroy()
    own_guest.disks[3][2].unlink()
    own_guest.disks.pop()
    own_guest.add_disk("vdd", "qcow2", 8 * MIB)
    own_guest.define()
    own_guest.start()
    point = line.point()
    assert "missing or broken" in disk(point, "vdd").full_reason
    assert disk(point, "vdb").full_reason == ""
    assert own_guest.checkpoints() == [disk(point, "vda").change_id]


def test_disks_that_changed_places_are_compared_in_full(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    line.point()
    own_guest.domain.destroy()
    first, second, third = own_guest.disks
    own_guest.disks = [("vda", *second[1:]), ("vdb", *first[1:]), third]
    own_guest.define()
    own_guest.start()
    reasons = [one.full_reason for one in line.point().disks]
    assert all(reason.startswith(("its image changed", "resized")) for reason in reasons[:2])
    assert [one.full_reason for one in line.point().disks] == ["", "", ""]


def test_lost_checkpoint_metadata_costs_a_full(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    base = line.point()
    own_guest.domain.checkpointLookupByName(disk(base, "vda").change_id).delete(
        libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY
    )
    assert "not known to libvirt" in disk(line.point(), "vda").full_reason
    own_guest.restart()
    last = line.point()
    assert own_guest.image_bitmaps("vda") == {disk(last, "vda").change_id} == set(own_guest.checkpoints())


def test_an_external_snapshot_changes_the_image(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    line.point()
    overlay = own_guest.directory / "overlay.qcow2"
    own_guest.domain.snapshotCreateXML(
        f"<domainsnapshot><disks><disk name='vda' snapshot='external'><source file='{overlay}'/></disk>"
        "<disk name='vdb' snapshot='no'/><disk name='vdc' snapshot='no'/></disks></domainsnapshot>",
        libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA,
    )
    point = line.point()
    assert "its image changed from" in disk(point, "vda").full_reason
    assert disk(point, "vdb").full_reason == ""
    assert disk(line.point(), "vda").full_reason == ""


def test_an_image_that_holds_no_bitmaps_is_compared(
    make_guest: Callable[[], Any], make_line: Callable[..., Any]
) -> None:
    guest = make_guest()
    guest.add_disk("vda", "qcow2", 8 * MIB, "-o", "compat=0.10")
    guest.define()
    guest.start()
    line = make_line(guest)
    snapshot = line.point()
    assert [one.change_id for one in snapshot.disks] == [""]
    assert any("no change tracking" in warning for warning in snapshot.warnings)


def test_a_stopped_machine_makes_the_point_invalid(own_guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(own_guest)
    base = line.point()
    plan, _ = line.take()
    own_guest.domain.destroy()
    with pytest.raises(SnapshotInvalid):
        line.hypervisor.confirm_snapshot(plan)
    line.hypervisor.release_snapshot(plan, committed=False)
    assert own_guest.checkpoints() == [disk(base, "vda").change_id]
    assert plan.data["name"] not in own_guest.image_bitmaps("vda")


def test_a_backup_ends_before_scratch_space_does(
    small_scratch: Path, make_guest: Callable[[], Any], make_line: Callable[..., Any]
) -> None:
    # Mounted before the start: QEMU has a mount namespace of its own and sees no later mounts.
    guest = make_guest()
    guest.add_disk("vda", "qcow2", 64 * MIB)
    guest.define()
    guest.start()
    line = make_line(guest, scratch_directory=str(small_scratch), scratch_reserve_bytes=16 * MIB)
    guest.write("vda", 0, 48 * MIB, 1)
    plan, snapshot = line.take()
    guest.write("vda", 0, 32 * MIB, 2)
    wait_until((Path(str(plan.data["socket"])).parent / "ended").exists, "the watch acts")
    with pytest.raises(ScratchFull):
        line.read(snapshot)
    with pytest.raises(ScratchFull):
        line.hypervisor.confirm_snapshot(plan)
    guest.write("vda", 0, MIB, 3)
    line.hypervisor.release_snapshot(plan, committed=False)
    assert guest.checkpoints() == []
    (small_scratch / "filler").write_bytes(bytes(40 * MIB))
    with pytest.raises(ScratchFull):
        line.take()


def test_quiesce_without_an_agent_is_a_warning(guest: Any, make_line: Callable[..., Any]) -> None:
    line = make_line(guest)
    plan, snapshot = line.take(quiesce=True)
    assert snapshot.warnings == ("not quiesced: no guest agent answers",)
    line.hypervisor.release_snapshot(plan, committed=False)
