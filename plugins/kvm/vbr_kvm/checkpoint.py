"""Checkpoints of ours: their names, which one an increment can build on, and giving them up.

A checkpoint is libvirt's record of one dirty bitmap per disk. All of them stay active side by side, so those of other
jobs and other programs are neither used nor touched.
"""

import xml.etree.ElementTree as ET
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import libvirt

from vbr_kvm.connection import libvirt_errors, parse, translated
from vbr_kvm.domain import DomainDisk, disks_of, domain_xml
from vbrcore.model.ids import short_id
from vbrcore.plugins.api import BaseDisk

if TYPE_CHECKING:
    from vbr_kvm.host import KvmHost

_WITH_SIZES = libvirt.VIR_DOMAIN_CHECKPOINT_XML_SIZE
_QCOW2_WITH_BITMAPS = 3


def prefix_of(job_id: str) -> str:
    """Return what the names of all checkpoints of a job begin with."""
    return f"vbr-{short_id(job_id)}-"


def name_for(job_id: str, session_id: str, attempt: int) -> str:
    """Return a name that is never used twice: session ids are random, attempts count up."""
    return f"{prefix_of(job_id)}{short_id(session_id)}-{attempt}"


def session_part(name: str) -> str:
    """Return the short session id in a name of ours."""
    return name.split("-")[2]


def lookup(domain: Any, name: str) -> Any | None:
    """Return a checkpoint, or None where libvirt does not know it."""
    try:
        return domain.checkpointLookupByName(name)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_CHECKPOINT:
            return None
        raise translated(error, domain.name()) from error


def description(checkpoint: Any, flags: int = 0) -> ET.Element:
    with libvirt_errors(checkpoint.getName()):
        return parse(checkpoint.getXMLDesc(flags))


class Bases:
    """Answers, for each disk, whether its base in the last committed point can be built on."""

    def __init__(self, connection: Any, domain: Any, bases: tuple[BaseDisk, ...], *, running: bool) -> None:
        self._connection = connection
        self._domain = domain
        self._bases = {base.disk_id: base for base in bases}
        self._running = running
        self._known: dict[str, ET.Element | None] = {}

    def usable(self, disk: DomainDisk, size_bytes: int) -> tuple[str, str]:
        """Return (checkpoint, "") or ("", why this disk must be compared in full; "" where nothing else was expected).

        A bitmap lies in the image itself, so image, size and a healthy bitmap are enough: QEMU keeps it up to date,
        and a program that writes the image and does not know bitmaps makes it invalid.
        """
        base = self._bases.get(disk.target)
        if not self._bases or disk.format != "qcow2":
            return "", ""
        if base is None:
            return "", "the disk is new: it was not in the last point"
        if base.size_bytes != size_bytes:
            return "", f"resized from {base.size_bytes} to {size_bytes} bytes"
        if not base.change_id:
            return "", "the last point has no checkpoint for this disk"
        reason = self._broken(disk, base.change_id)
        return ("", reason) if reason else (base.change_id, "")

    def _broken(self, disk: DomainDisk, name: str) -> str:
        if name not in self._known:
            checkpoint = lookup(self._domain, name)
            flags = _WITH_SIZES if self._running else 0
            self._known[name] = None if checkpoint is None else description(checkpoint, flags)
        xml = self._known[name]
        if xml is None:
            return f"checkpoint {name} is not known to libvirt any more (machine migrated or defined anew)"
        tracked = xml.find(f"disks/disk[@name='{disk.target}'][@checkpoint='bitmap']")
        if tracked is None:
            return f"the disk is not in checkpoint {name}"
        then = self._source_then(xml, disk.target)
        if then != disk.source:
            return f"its image changed from {then or 'none'} to {disk.source}"
        if self._running and tracked.get("size") is None:
            return f"bitmap {name} is missing or broken (QEMU was killed, or the image was replaced)"
        return ""

    def _source_then(self, xml: ET.Element, target: str) -> str:
        """Return the disk's image at the time of the checkpoint, which holds the whole definition."""
        definition = xml.find("domain")
        if definition is None:
            return ""
        sources = {disk.target: disk.source for disk in disks_of(self._connection, definition, running=True)}
        return sources.get(target, "")


def ours(domain: Any, prefix: str) -> list[Any]:
    """Return the checkpoints whose names begin with `prefix`, oldest first."""
    with libvirt_errors(domain.name()):
        found = domain.listAllCheckpoints(libvirt.VIR_DOMAIN_CHECKPOINT_LIST_TOPOLOGICAL)
    return [checkpoint for checkpoint in found if checkpoint.getName().startswith(prefix)]


def delete_older(host: "KvmHost", domain: Any, prefix: str, name: str) -> None:
    """Give up this job's checkpoints that are older than `name`. Where `name` is gone nothing is known to be older."""
    listed = ours(domain, prefix)
    names = [checkpoint.getName() for checkpoint in listed]
    if name in names:
        for checkpoint in listed[: names.index(name)]:
            _delete(host, domain, checkpoint)


def delete_forgotten(host: "KvmHost", domain: Any, prefix: str, name: str) -> None:
    """Remove this job's bitmaps that libvirt has no checkpoint for any more, e.g. of a machine that was defined anew.

    Each would slow down the guest's writes for ever. A checkpoint is made known again and deleted. Where images cannot
    be read from here (another account, a network) they stay.
    """
    newest = lookup(domain, name)
    if newest is None:
        return
    template = description(newest)
    known = {checkpoint.getName() for checkpoint in ours(domain, prefix)}
    holders: dict[str, set[str]] = {}
    for disk in disks_of(domain.connect(), domain_xml(domain), running=True):
        for bitmap in host.bitmaps(disk.source) if disk.format == "qcow2" and disk.local else ():
            if bitmap.startswith(prefix) and bitmap not in known:
                holders.setdefault(bitmap, set()).add(disk.target)
    for bitmap, targets in holders.items():
        with libvirt_errors(f"{domain.name()}: bitmap {bitmap}"):
            text = _renamed(template, bitmap, targets)
            domain.checkpointCreateXML(text, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
            _delete(host, domain, domain.checkpointLookupByName(bitmap))


def _renamed(template: ET.Element, name: str, targets: set[str]) -> str:
    copy = deepcopy(template)
    for node in copy.findall("name"):
        node.text = name
    for disk in copy.findall("disks/disk"):
        tracked = disk.get("name") in targets
        disk.attrib.pop("bitmap", None)
        disk.set("checkpoint", "bitmap" if tracked else "no")
    return ET.tostring(copy, encoding="unicode")


def holds_bitmaps(host: "KvmHost", disk: DomainDisk) -> bool:
    """Tell whether a qcow2 image can: not in its old version 2. One that cannot be read here is given a try."""
    head = host.head(disk.source) if disk.local else b""
    return not head or int.from_bytes(head[4:8]) >= _QCOW2_WITH_BITMAPS


def delete_one(host: "KvmHost", domain: Any, name: str) -> None:
    checkpoint = lookup(domain, name)
    if checkpoint is not None:
        _delete(host, domain, checkpoint)


def _delete(host: "KvmHost", domain: Any, checkpoint: Any) -> None:
    with libvirt_errors(f"{domain.name()}: checkpoint {checkpoint.getName()}"):
        if not domain.isActive():
            _delete_offline(host, domain, checkpoint)
            return
        try:
            checkpoint.delete()
        except libvirt.libvirtError:
            _delete_broken(domain, checkpoint)


def _delete_broken(domain: Any, checkpoint: Any) -> None:
    """Delete a checkpoint of which some bitmaps are lost: libvirt refuses, so it has to forget those first."""
    name = checkpoint.getName()
    xml = description(checkpoint, _WITH_SIZES)
    definition = description(checkpoint)
    healthy = {disk.get("name") for disk in xml.findall("disks/disk") if disk.get("size") is not None}
    for disk in definition.findall("disks/disk"):
        if disk.get("name") not in healthy:
            disk.set("checkpoint", "no")
            disk.attrib.pop("bitmap", None)
    checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
    if healthy:
        text = ET.tostring(definition, encoding="unicode")
        domain.checkpointCreateXML(text, libvirt.VIR_DOMAIN_CHECKPOINT_CREATE_REDEFINE)
        domain.checkpointLookupByName(name).delete()


def _delete_offline(host: "KvmHost", domain: Any, checkpoint: Any) -> None:
    """Delete a checkpoint of a machine that is off: libvirt cannot, so the bitmaps are taken out of the images.

    An image that cannot be written here keeps the checkpoint; it is deleted with the next point of the running machine.
    """
    xml = description(checkpoint)
    definition = xml.find("domain")
    if definition is None:
        return
    tracked = {disk.get("name") for disk in xml.findall("disks/disk[@checkpoint='bitmap']")}
    for disk in disks_of(domain.connect(), definition, running=False):
        if disk.target in tracked and not (disk.local and host.remove_bitmap(disk.source, checkpoint.getName())):
            return
    checkpoint.delete(libvirt.VIR_DOMAIN_CHECKPOINT_DELETE_METADATA_ONLY)
