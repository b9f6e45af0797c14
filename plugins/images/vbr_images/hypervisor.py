"""A directory of image files as a hypervisor. Nothing is frozen: what changed while it was read is refused."""

import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

import msgspec

from vbr_images.layout import FoundMachine, examine, find_machine, find_machines
from vbrcore.model.errors import (
    AlreadyExists,
    CapabilityMissing,
    HypervisorUnreachable,
    ImageInvalid,
    InvalidValue,
    MachineNotFound,
    SinkWriteFailed,
    SnapshotInvalid,
)
from vbrcore.model.inventory import Disk, Machine
from vbrcore.plugins.api import (
    DiskSource,
    RestorePlan,
    RestoreRequest,
    SinkSpec,
    Snapshot,
    SnapshotPlan,
    SnapshotRequest,
    SourceSpec,
)

EVERY_HOST = "*"  # of machines whose directory every server has


class ImageDirectory:
    """See `vbrcore.plugins.api.Hypervisor`."""

    def __init__(self, root: Path, *, host: str = "") -> None:
        self._root = root
        self._host = host

    def inventory(self) -> Sequence[Machine]:
        try:
            return [_machine(found, self._host) for found in find_machines(self._root)]
        except OSError as error:
            raise HypervisorUnreachable(f"{error.filename or self._root} cannot be read: {error.strerror}") from error

    def plan_snapshot(self, request: SnapshotRequest) -> SnapshotPlan:
        # The state before the first byte is read: `confirm_snapshot` compares with it.
        found = self._found(request.machine)
        files = sorted({name for disk in examine(found) for name in disk.files})
        return SnapshotPlan(found.machine_id, {"files": files, "states": [_state(name) for name in files]})

    def take_snapshot(self, request: SnapshotRequest, plan: SnapshotPlan) -> Snapshot:  # noqa: ARG002 - freezes nothing
        found = self._found(request.machine)
        disks = examine(found)
        if not disks:
            raise ImageInvalid(f"machine {found.name!r} has no image file in {found.directory}")
        sources = [
            DiskSource(
                disk_id=disk.path.name,
                name=disk.path.name,
                size_bytes=disk.size_bytes,
                source=SourceSpec(
                    "images",
                    "image",
                    {"path": str(disk.path), "format": disk.format, "directory": str(found.directory)},
                ),
                transport_mode="file",
            )
            for disk in disks
        ]
        kept = {"name": found.name, "disks": [{"name": disk.path.name, "format": disk.format} for disk in disks]}
        text = msgspec.json.encode(kept).decode()
        return Snapshot(tuple(sources), SourceSpec("images", "configuration", {"text": text}))

    def confirm_snapshot(self, plan: SnapshotPlan) -> None:
        for name, state in zip(_texts(plan.data["files"]), _texts(plan.data["states"]), strict=True):
            if _state(name) != state:
                raise SnapshotInvalid(f"{name} was changed while it was read")

    def release_snapshot(self, plan: SnapshotPlan, *, committed: bool) -> None:
        """Nothing was made, so there is nothing to undo."""

    def plan_restore(self, request: RestoreRequest) -> RestorePlan:
        name = request.options.get("directory", request.name)
        if not name or name != Path(name).name or name.startswith(".") or "\0" in name:
            raise InvalidValue(f"{name!r} cannot be the name of a machine's directory")
        if os.path.lexists(self._root / name):
            raise AlreadyExists(f"{self._root / name} exists already")
        # Written under a hidden name that is ours alone, so that nobody sees half a machine.
        staging = self._root / f".{name}.{uuid.uuid4().hex}"
        sinks: dict[str, SinkSpec] = {}
        used: set[str] = set()
        for disk in request.disks:
            file_name = _free_name(Path(disk.name).name, used)
            sinks[disk.disk_id] = SinkSpec(
                "images",
                "image",
                disk.size_bytes,
                {"path": str(staging / file_name), "format": "raw", "make_directory": True},
            )
        return RestorePlan(name, sinks, {"staging": str(staging)})

    def create_machine(self, request: RestoreRequest, plan: RestorePlan) -> str:
        target = self._root / plan.machine_id
        if os.path.lexists(target):
            raise AlreadyExists(f"{target} exists already")
        staging = Path(str(plan.data["staging"]))
        try:
            if not request.disks:
                staging.mkdir(mode=0o700)
            staging.rename(target)
            _sync(self._root)
        except OSError as error:
            raise SinkWriteFailed(f"{target} cannot be made: {error.strerror}") from error
        return plan.machine_id

    def remove_machine(self, plan: RestorePlan) -> None:
        # A machine that was created has no staging directory any more: it is whole, and stays.
        staging = Path(str(plan.data["staging"]))
        if staging.is_dir():
            shutil.rmtree(staging)

    def power_on(self, machine_id: str) -> None:
        raise CapabilityMissing(f"machine {machine_id!r} is a directory: nothing runs it")

    def orphans(self, job_id: str, live_session_ids: frozenset[str]) -> Sequence[SnapshotPlan]:  # noqa: ARG002
        return ()

    def close(self) -> None:
        """There is no connection."""

    def _found(self, machine: Machine) -> FoundMachine:
        found = find_machine(self._root, machine.machine_id, machine.name)
        if found is None:
            raise MachineNotFound(f"there is no machine {machine.name!r} in {self._root}")
        return found


def _machine(found: FoundMachine, host: str) -> Machine:
    try:
        disks = [Disk(disk.path.name, disk.path.name, disk.size_bytes) for disk in examine(found)]
    except ImageInvalid:
        disks = []  # its directory cannot be read: `plan_snapshot` fails with the reason
    return Machine(found.machine_id, found.name, tuple(disks), host=host)


def _state(name: str) -> str:
    """Return what tells a changed file from an unchanged one; a missing file has a state, too."""
    try:
        found = Path(name).stat()
    except OSError:
        return "missing"
    return f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"


def _texts(value: str | int | bool | list[str]) -> list[str]:
    return value if isinstance(value, list) else []


def _free_name(name: str, used: set[str]) -> str:
    """Return the file name of a raw disk that is not used yet, and note it."""
    stem = Path(name).stem.lstrip(".") or "disk"
    free, count = f"{stem}.raw", 1
    while free in used:
        count += 1
        free = f"{stem}-{count}.raw"
    used.add(free)
    return free


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
