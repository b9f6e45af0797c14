"""What a directory of the images plugin means, and how it fails."""

import os
import subprocess
from pathlib import Path

import pytest

from vbr_images.plugin import PLUGIN, Settings
from vbrcore.model.errors import (
    AlreadyExists,
    CapabilityMissing,
    HypervisorUnreachable,
    ImageEscapesDirectory,
    ImageInvalid,
    InvalidValue,
    SnapshotInvalid,
)
from vbrcore.model.inventory import Machine
from vbrcore.plugins.api import Hypervisor, RestoreDisk, RestoreRequest, SinkSpec, SnapshotRequest
from vbrcore.plugins.loader import mover_half

MIB = 1024 * 1024


def create(path: Path, *options: str, size: str = "1M") -> None:
    subprocess.run(["qemu-img", "create", "-q", *options, str(path), size], check=True, capture_output=True)


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    """One machine of every kind."""
    (tmp_path / "web").mkdir()
    create(tmp_path / "web" / "base.qcow2", "-f", "qcow2")
    create(tmp_path / "web" / "root.qcow2", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2")
    create(tmp_path / "web" / "split.vmdk", "-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse")
    create(tmp_path / "web" / "flat.vmdk", "-f", "vmdk", "-o", "subformat=monolithicFlat")
    (tmp_path / "web" / "notes.txt").write_text("no disk")
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "data.RAW").write_bytes(b"x" * 513)
    (tmp_path / "db.img").write_bytes(b"y" * 4097)
    create(tmp_path / "mail.vhdx", "-f", "vhdx")
    (tmp_path / "empty").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "README").write_text("no machine")
    return tmp_path


def connect(path: Path) -> Hypervisor:
    return PLUGIN.connect(Settings(str(path)), {}, None)


def request(machine: Machine) -> SnapshotRequest:
    return SnapshotRequest("job", "session", 1, machine, quiesce=False)


def named(hypervisor: Hypervisor, name: str) -> Machine:
    return next(machine for machine in hypervisor.inventory() if machine.name == name)


def test_machines_and_disks(lab: Path) -> None:
    found = {
        machine.name: {disk.name: disk.size_bytes for disk in machine.disks} for machine in connect(lab).inventory()
    }
    assert found == {
        "db": {"data.RAW": 513},
        "db.img": {"db.img": 4097},  # "db" is taken by the directory
        "empty": {},
        "mail": {"mail.vhdx": MIB},
        "web": {"flat.vmdk": MIB, "root.qcow2": MIB, "split.vmdk": MIB},
    }


def test_a_disk_that_cannot_be_opened_is_listed_and_fails_alone(lab: Path) -> None:
    (lab / "web" / "base.qcow2").unlink()
    (lab / "web" / "split-s001.vmdk").rename(lab / "elsewhere.bin")
    (lab / "web" / "split-s001.vmdk").symlink_to(lab / "elsewhere.bin")
    hypervisor = connect(lab)
    web = named(hypervisor, "web")
    assert {disk.name: disk.size_bytes for disk in web.disks} == {"flat.vmdk": MIB, "root.qcow2": 0, "split.vmdk": 0}
    plan = hypervisor.plan_snapshot(request(web))
    sources = {disk.name: disk.source for disk in hypervisor.take_snapshot(request(web), plan).disks}
    open_source = mover_half("images").READERS["image"]
    with pytest.raises(ImageInvalid, match=r"base\.qcow2"):
        open_source(sources["root.qcow2"])
    with pytest.raises(ImageEscapesDirectory, match=r"split-s001\.vmdk"):
        open_source(sources["split.vmdk"])
    open_source(sources["flat.vmdk"]).close()
    hypervisor.confirm_snapshot(plan)


@pytest.mark.parametrize("touched", ["root.qcow2", "base.qcow2", "flat-flat.vmdk"])
@pytest.mark.parametrize("change", ["written", "replaced", "removed"])
def test_a_change_of_any_file_while_it_is_read_is_noticed(lab: Path, touched: str, change: str) -> None:
    hypervisor, path = connect(lab), lab / "web" / touched
    plan = hypervisor.plan_snapshot(request(named(hypervisor, "web")))
    hypervisor.confirm_snapshot(plan)
    if change == "written":
        os.utime(path)
    elif change == "replaced":
        state = path.stat()
        path.rename(lab / "old")
        path.write_bytes((lab / "old").read_bytes())
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    else:
        path.unlink()
    with pytest.raises(SnapshotInvalid, match=touched):
        hypervisor.confirm_snapshot(plan)


def test_a_machine_without_images_is_one_clear_error(lab: Path) -> None:
    hypervisor = connect(lab)
    empty = named(hypervisor, "empty")
    with pytest.raises(ImageInvalid, match="'empty'"):
        hypervisor.take_snapshot(request(empty), hypervisor.plan_snapshot(request(empty)))


def test_what_connect_refuses(tmp_path: Path) -> None:
    with pytest.raises(HypervisorUnreachable):
        connect(tmp_path / "absent")
    with pytest.raises(InvalidValue, match="absolute"):
        connect(Path("relative"))


def _restore(name: str, *disks: str, **options: str) -> RestoreRequest:
    restored = tuple(RestoreDisk(f"id{number}", disk, 1000) for number, disk in enumerate(disks))
    return RestoreRequest(name, "kvm", b"<domain/>", restored, options)


@pytest.mark.parametrize("name", ["../out", "a/b", "/etc", "..", ".", "", ".hidden"])
def test_a_name_that_leaves_the_directory_is_refused(lab: Path, name: str) -> None:
    with pytest.raises(InvalidValue):
        connect(lab).plan_restore(_restore(name))
    with pytest.raises(InvalidValue):
        connect(lab).plan_restore(_restore("fine", directory=name))


def test_restored_disks_get_distinct_names(lab: Path) -> None:
    hypervisor = connect(lab)
    wanted = _restore("new", "a.qcow2", "a.vmdk", "../../b", "vda")
    plan = hypervisor.plan_restore(wanted)
    names = [Path(str(plan.sinks[disk.disk_id].settings["path"])).name for disk in wanted.disks]
    assert names == ["a.raw", "a-2.raw", "b.raw", "vda.raw"]
    with pytest.raises(AlreadyExists):
        hypervisor.plan_restore(_restore("web"))


def test_a_machine_that_came_meanwhile_is_not_touched(lab: Path) -> None:
    hypervisor = connect(lab)
    wanted = _restore("new", "a.qcow2")
    plan = hypervisor.plan_restore(wanted)
    (lab / "new").mkdir()
    (lab / "new" / "a.raw").write_text("theirs")
    with pytest.raises(AlreadyExists):
        hypervisor.create_machine(wanted, plan)
    hypervisor.remove_machine(plan)
    assert (lab / "new" / "a.raw").read_text() == "theirs"
    with pytest.raises(CapabilityMissing):
        hypervisor.power_on("new")


def test_a_single_disk_is_written_to_a_path(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    spec = SinkSpec("images", "image", MIB, {"path": str(path), "format": "qcow2"})
    writer = mover_half("images").WRITERS["image"](spec)
    writer.write_from(0, memoryview(b"x" * 512))
    writer.finish()
    writer.close()
    assert named(connect(tmp_path), "disk").disks[0].size_bytes == MIB
