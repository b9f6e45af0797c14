"""Whole machines back into libvirt."""

import contextlib
import re
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import libvirt

from vbr_kvm import configuration, definition
from vbr_kvm.connection import find_domain, libvirt_errors, parse, qemu_account
from vbr_kvm.definition import Host, NewDisk
from vbr_kvm.domain import to_text
from vbr_kvm.host import KvmHost
from vbr_kvm.ways import Ways
from vbrcore.model.errors import AlreadyExists, InvalidValue, MachineNotFound
from vbrcore.plugins.api import RestorePlan, RestoreRequest, SinkSpec

FORMATS = ("qcow2", "raw")
_OPTIONS = frozenset(
    {"directory", "format", "new_identity", "trust_configuration", "bus", "memory_mib", "vcpus", "firmware"}
)
_UNDEFINE = libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
_NAME = re.compile(r"[^/\x00-\x1f]{1,200}")


class Restores:
    """Options of a request: `directory`, `format` (qcow2, raw; default: as it was), `new_identity` (yes: new UUID and
    network addresses), `trust_configuration` (yes: the definition as it is); for machines of another hypervisor `bus`,
    `memory_mib`, `vcpus`, `firmware` (bios, efi).
    """

    def __init__(self, connection: Any, host: KvmHost, ways: Ways) -> None:
        self._connection = connection
        self._host = host
        self._ways = ways

    # --- plan -----------------------------------------------------------------------------------

    def plan(self, request: RestoreRequest) -> RestorePlan:
        self._check(request)
        kept = self._kept(request)
        original = "" if kept is None else kept.findtext("uuid", "")
        new = request.options.get("new_identity") == "yes" or not _is_uuid(original) or self._taken(original)
        machine_id = str(uuid.uuid4()) if new else original
        placed = self._places(request, kept)
        for disk in placed.values():
            if self._host.exists(disk.path):
                raise AlreadyExists(f"{disk.path} exists already")
        _, left_out = self._definition(request, placed)
        targets = self._targets(request, kept)
        sinks = {disk.disk_id: self._sink(placed[targets[disk.disk_id]], disk.size_bytes) for disk in request.disks}
        nvram, tpm = self._state_places(request, kept, machine_id)
        for path in (nvram, tpm):
            if path and self._host.exists(path):
                raise AlreadyExists(f"{path} exists already")
        data: dict[str, str | int | bool | list[str]] = {
            "name": request.name,
            "new_identity": new,
            "nvram": nvram,
            "tpm": tpm,
        }
        return RestorePlan(machine_id, sinks, data, tuple(left_out))

    def _state_places(self, request: RestoreRequest, kept: ET.Element | None, machine_id: str) -> tuple[str, str]:
        """Return where NVRAM and TPM state go ("": there is none)."""
        if kept is None:
            return "", ""
        held = configuration.unpack(request.configuration)
        nvram = str(self._directory(request) / f"{request.name}_VARS.fd") if held.nvram else ""
        backend = kept.find("devices/tpm/backend[@type='emulator']")
        if not held.tpm or backend is None:
            return nvram, ""
        return nvram, str(self._host.tpm_directory(machine_id, backend.get("version", "2.0")))

    def _check(self, request: RestoreRequest) -> None:
        unknown = sorted(set(request.options) - _OPTIONS)
        if unknown:
            raise InvalidValue(f"option {unknown[0]!r}: one of {', '.join(sorted(_OPTIONS))}")
        if not _NAME.fullmatch(request.name) or request.name.startswith("."):
            raise InvalidValue(f"name {request.name!r} cannot be that of a machine")
        if request.options.get("format", FORMATS[0]) not in FORMATS:
            raise InvalidValue(f"format {request.options['format']!r}: one of {', '.join(FORMATS)}")
        directory = self._directory(request)
        self._host.check_directory(directory)
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.lookupByName(request.name)
            raise AlreadyExists(f"a machine named {request.name} exists already")

    def _directory(self, request: RestoreRequest) -> Path:
        chosen = Path(request.options.get("directory") or self._host.images_root())
        if not chosen.is_absolute():
            raise InvalidValue(f"directory {chosen}: an absolute path expected")
        return chosen

    def _kept(self, request: RestoreRequest) -> ET.Element | None:
        """Return the kept definition, or None for a machine of another hypervisor."""
        if request.configuration_plugin != "kvm" or not request.configuration:
            return None
        return parse(configuration.unpack(request.configuration).xml)

    def _taken(self, machine_id: str) -> bool:
        try:
            find_domain(self._connection, machine_id)
        except MachineNotFound:
            return False
        return True

    def _targets(self, request: RestoreRequest, kept: ET.Element | None) -> dict[str, str]:
        """Return the target of each disk id: of our own points it is the disk id."""
        if kept is None:
            return definition.foreign_targets(request.options, request.disks)
        known = definition.formats_of(kept)
        for disk in request.disks:
            if disk.disk_id not in known:
                raise InvalidValue(f"disk {disk.name} is not in the kept definition")
        return {disk.disk_id: disk.disk_id for disk in request.disks}

    def _places(self, request: RestoreRequest, kept: ET.Element | None) -> dict[str, NewDisk]:
        formats = {} if kept is None else definition.formats_of(kept)
        placed = {}
        for disk_id, target in self._targets(request, kept).items():
            was = formats.get(disk_id, "qcow2")
            chosen = request.options.get("format") or (was if was in FORMATS else "qcow2")
            path = self._directory(request) / f"{request.name}-{target}.{chosen}"
            placed[target] = NewDisk(str(path), chosen)
        return placed

    def _definition(self, request: RestoreRequest, placed: dict[str, NewDisk]) -> tuple[ET.Element, list[str]]:
        kept = self._kept(request)
        host = Host(self._connection, self._host)
        if kept is None:
            return definition.foreign(host, request.options, placed), []
        if request.options.get("trust_configuration") == "yes":
            return definition.trusted(kept, placed), []
        return definition.rebuild(host, kept, placed)

    # --- create, remove -------------------------------------------------------------------------

    def create(self, request: RestoreRequest, plan: RestorePlan) -> str:
        kept = self._kept(request)
        placed = self._places(request, kept)
        root, _ = self._definition(request, placed)
        definition.identify(root, request.name, plan.machine_id, new=bool(plan.data["new_identity"]))
        if kept is not None:
            self._put_back(request, plan, root)
        with libvirt_errors(request.name):
            self._connection.defineXML(to_text(root))
        return plan.machine_id

    def _put_back(self, request: RestoreRequest, plan: RestorePlan, root: ET.Element) -> None:
        """Write NVRAM and TPM state to where the new machine looks for them."""
        held = configuration.unpack(request.configuration)
        account = qemu_account(self._connection, None, self._host.own_account())
        system = root.find("os")
        nvram, tpm = str(plan.data["nvram"]), str(plan.data["tpm"])
        if nvram and system is not None:
            self._host.write_new(Path(nvram), held.nvram, account)
            for node in system.findall("nvram"):
                system.remove(node)
            ET.SubElement(system, "nvram").text = nvram
        if tpm:
            self._host.write_tpm(held.tpm, Path(tpm), self._host.tpm_account(account))

    def remove(self, plan: RestorePlan) -> None:
        try:
            domain = find_domain(self._connection, plan.machine_id)
        except MachineNotFound:
            domain = None
        if domain is not None and domain.name() == plan.data["name"]:
            with libvirt_errors(domain.name()):
                if domain.isActive():
                    domain.destroy()
                domain.undefineFlags(_UNDEFINE)
        for sink in plan.sinks.values():
            self._host.remove_file(str(sink.settings["path"]))
        if plan.data["nvram"]:
            self._host.remove_file(str(plan.data["nvram"]))
        if plan.data["tpm"]:
            self._host.remove_directory(Path(str(plan.data["tpm"])).parent)

    def _sink(self, disk: NewDisk, size_bytes: int) -> SinkSpec:
        return self._ways.sink(size_bytes, {"path": disk.path, "format": disk.format})

    def power_on(self, machine_id: str) -> None:
        domain = find_domain(self._connection, machine_id)
        with libvirt_errors(domain.name()):
            if not domain.isActive():
                domain.create()


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False
