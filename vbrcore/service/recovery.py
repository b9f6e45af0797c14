"""Restore and verify: checked here, done by sessions."""

import os
from pathlib import Path

import msgspec

from vbrcore.api import operations, types
from vbrcore.catalog.catalog import StoredPoint
from vbrcore.model.errors import CapabilityMissing, InvalidValue, NotFound, OutputRefused
from vbrcore.model.session import SessionKind
from vbrcore.plugins.api import Confinement
from vbrcore.plugins.loader import load
from vbrcore.plugins.newfile import place_below
from vbrcore.service.routes import Call, Routes
from vbrcore.service.values import check_name


def add_routes(routes: Routes) -> None:
    routes.add(operations.RESTORE_DISK, _restore_disk)
    routes.add(operations.RESTORE_MACHINE, _restore_machine)
    routes.add(operations.VERIFY, _verify)


def _restore_disk(call: Call, request: types.RestoreDisk) -> types.SessionStarted:
    stored = call.service.catalog.point(request.point)
    names = [disk.name for disk in stored.point.disks]
    if request.disk not in {*names, *(disk.disk_id for disk in stored.point.disks)}:
        raise NotFound(f"point {request.point} has no disk {request.disk}; it has {', '.join(names)}")
    if bool(request.output) == bool(request.stream):
        raise InvalidValue("a disk is restored either to a file or to a stream")
    if request.stream and request.format != "raw":
        raise InvalidValue(f"a stream is raw; {request.format} needs a file")
    confinement = None if call.uid == os.geteuid() else Confinement(_directories(call), call.uid, call.gid)
    if request.output:
        _check_output(Path(request.output), confinement)
    return _start(call, "restore", stored, request, confinement)


def _directories(call: Call) -> tuple[str, ...]:
    return call.service.configuration.restore.directories


def _check_output(output: Path, confinement: Confinement | None) -> None:
    """Raise `OutputRefused` or `InvalidValue` unless a new file may be made there; its maker enforces it again."""
    if not output.is_absolute():
        raise InvalidValue(f"{output} is not absolute")
    if confinement is not None:
        place_below(output, confinement.directories)
        if os.geteuid():
            raise OutputRefused("only a service that runs as root can give a file to another user")
    if os.path.lexists(output):
        raise OutputRefused(f"{output} exists already: a restore never overwrites")
    if not output.parent.is_dir():
        raise InvalidValue(f"{output.parent} is no directory")


def _restore_machine(call: Call, request: types.RestoreMachine) -> types.SessionStarted:
    stored = call.service.catalog.point(request.point)
    check_name(request.name)
    hypervisor = call.service.catalog.hypervisor_by_name(request.hypervisor)
    capabilities = load(hypervisor.plugin).info.capabilities
    if "create_machine" not in capabilities:
        raise CapabilityMissing(f"plugin {hypervisor.plugin!r} of {hypervisor.name} cannot make machines")
    if request.power_on and "power_on" not in capabilities:
        raise CapabilityMissing(f"plugin {hypervisor.plugin!r} of {hypervisor.name} cannot start machines")
    confinement = None
    if call.uid != os.geteuid() and (directory := request.options.get("directory")):
        # Its disks belong to the hypervisor, not to the caller.
        confinement = Confinement(_directories(call))
        place_below(Path(directory) / request.name, confinement.directories)
    return _start(call, "restore", stored, request, confinement)


def _verify(call: Call, request: types.Verify) -> types.SessionStarted:
    return _start(call, "verify", call.service.catalog.point(request.point), request)


def _start(
    call: Call,
    kind: SessionKind,
    stored: StoredPoint,
    request: msgspec.Struct,
    confinement: Confinement | None = None,
) -> types.SessionStarted:
    """Start a session over a point; it goes by the job that made the point. What binds it to its caller travels on."""
    bounds = {"caller_uid": call.uid, "confinement": msgspec.to_builtins(confinement)}
    data: dict[str, object] = {**msgspec.to_builtins(request), **bounds}
    point = stored.point
    session = call.service.start_session(kind, job_id=point.job_id, name=point.job_name, request=data)
    return types.SessionStarted(session.session_id, point.job_id)
