"""Domains and their disks, as libvirt describes them."""

import xml.etree.ElementTree as ET
from pathlib import PurePosixPath
from typing import Any

import libvirt
import msgspec

from vbr_kvm.connection import libvirt_errors, parse
from vbrcore.model.inventory import Disk, Machine

# Types of <disk> that a mover on the host can open by itself while the machine is off.
_LOCAL = {"file": "file", "block": "dev"}


class DomainDisk(msgspec.Struct, frozen=True):
    """One disk of a domain's definition. `source` is its path (or protocol and name of a network disk)."""

    target: str
    format: str
    source: str
    local: bool
    skipped: str = ""


def domain_xml(domain: Any, *, inactive: bool = False) -> ET.Element:
    """Return the domain's definition: the running one, or what the next start will use."""
    with libvirt_errors(domain.name()):
        return parse(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE if inactive else 0))


def to_text(xml: ET.Element) -> str:
    return ET.tostring(xml, encoding="unicode")


def disks_of(connection: Any, xml: ET.Element, *, running: bool) -> list[DomainDisk]:
    """Return the hard disks of a definition in its order; what cannot be read carries the reason in `skipped`.

    CD-ROM and floppy drives are no disks.
    """
    return [
        _disk(connection, node, running=running)
        for node in xml.findall("devices/disk")
        if node.get("device", "disk") not in {"cdrom", "floppy"}
    ]


def _disk(connection: Any, node: ET.Element, *, running: bool) -> DomainDisk:
    kind = node.get("type", "file")
    source = _source(connection, node.find("source"), kind)
    target = _attribute(node, "target", "dev")
    # libvirt takes a disk without a format as raw, and so does this: the content is the guest's and decides nothing.
    image_format = _attribute(node, "driver", "type") or "raw"
    local = kind in _LOCAL or (kind == "volume" and source.startswith("/"))
    return DomainDisk(
        target, image_format, source, local, _reason_to_skip(node, kind, source, local=local, running=running)
    )


def _reason_to_skip(node: ET.Element, kind: str, source: str, *, local: bool, running: bool) -> str:
    reasons = (
        (node.get("device", "disk") == "lun", "a passed-through SCSI device cannot be backed up by QEMU"),
        (not source, "no image in the drive"),
        (node.find("readonly") is not None, "read-only"),
        (node.find("transient") is not None, "transient: its changes are dropped at power-off"),
        (node.find("encryption") is not None or node.find("source/encryption") is not None, "encrypted by QEMU"),
        (kind == "network" and not running, f"network disk ({source}): read only while the machine runs"),
        (kind == "block" and not running, f"block device ({source}): read only while the machine runs"),
        (not local and kind != "network", f"disks of type {kind} cannot be read"),
    )
    return next((reason for applies, reason in reasons if applies), "")


def _source(connection: Any, node: ET.Element | None, kind: str) -> str:
    if node is None:
        return ""
    if kind in _LOCAL:
        return node.get(_LOCAL[kind], "")
    if kind == "volume":
        try:
            pool = connection.storagePoolLookupByName(node.get("pool", ""))
            return str(pool.storageVolLookupByName(node.get("volume", "")).path())
        except libvirt.libvirtError:
            return f"volume:{node.get('pool', '')}/{node.get('volume', '')}"
    return f"{node.get('protocol', kind)}:{node.get('name', '')}"


def _attribute(node: ET.Element, child: str, name: str) -> str:
    found = node.find(child)
    return "" if found is None else found.get(name, "")


def size_of(domain: Any, disk: DomainDisk) -> int:
    """Return the virtual size in bytes. Raises `HypervisorFailed` where the image cannot be opened."""
    with libvirt_errors(f"{domain.name()}: disk {disk.target}"):
        return int(domain.blockInfo(disk.target)[0])


def inventory(connection: Any) -> list[Machine]:
    """Return all domains by name. One that vanishes meanwhile is left out."""
    with libvirt_errors("list of domains"):
        domains = connection.listAllDomains()
        host = connection.getHostname()
    machines = []
    for domain in domains:
        try:
            machines.append(_machine(connection, domain, host))
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    return sorted(machines, key=lambda machine: (machine.name, machine.machine_id))


def _machine(connection: Any, domain: Any, host: str) -> Machine:
    running = bool(domain.isActive())
    found = disks_of(connection, parse(domain.XMLDesc(0)), running=running)
    disks = tuple(_inventory_disk(connection, domain, disk) for disk in found)
    return Machine(domain.UUIDString(), domain.name(), disks, host=host, state="running" if running else "off")


def _inventory_disk(connection: Any, domain: Any, disk: DomainDisk) -> Disk:
    size_bytes, skipped = 0, disk.skipped
    if not skipped:
        try:
            size_bytes = int(domain.blockInfo(disk.target)[0])
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise
            skipped = f"its image cannot be opened: {error}"
    return Disk(disk.target, disk.target, size_bytes, datastore=_datastore(connection, disk), skipped=skipped)


def _datastore(connection: Any, disk: DomainDisk) -> str:
    """Return the storage pool that holds a disk, else its directory."""
    if not disk.source.startswith("/"):
        return disk.source.partition("/")[0]
    try:
        return str(connection.storageVolLookupByPath(disk.source).storagePoolLookupByVolume().name())
    except libvirt.libvirtError:
        return str(PurePosixPath(disk.source).parent)
