"""libvirt's pull-mode backup job of a running domain: begin, recognise, end."""

import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt
import msgspec

from vbr_kvm.connection import libvirt_errors, parse, translated
from vbrcore.model.errors import HypervisorFailed, MachineBusy

EXPORT_BITMAP = "vbr"
# Usually some 50 ms; but libvirt 9 can lose 30 s over a guest agent that comes or goes meanwhile (see docs/kvm.md).
_ABORT_TIMEOUT_S = 120
_ABORT_POLL_S = 0.01


class BackupDisk(msgspec.Struct, frozen=True):
    """A disk of the job. `base` is the checkpoint to tell changes from ("": none), `tracked`: in the new checkpoint."""

    target: str
    scratch: str
    base: str
    tracked: bool


def backup_xml(disks: Sequence[BackupDisk], others: Sequence[str], socket: Path) -> str:
    root = ET.Element("domainbackup", mode="pull")
    ET.SubElement(root, "server", transport="unix", socket=str(socket))
    nodes = ET.SubElement(root, "disks")
    for disk in disks:
        node = ET.SubElement(nodes, "disk", name=disk.target, backup="yes", type="file", exportname=disk.target)
        if disk.base:
            node.set("backupmode", "incremental")
            node.set("incremental", disk.base)
            node.set("exportbitmap", EXPORT_BITMAP)
        else:
            node.set("backupmode", "full")
        ET.SubElement(node, "scratch", file=disk.scratch)
    for target in others:
        ET.SubElement(nodes, "disk", name=target, backup="no")
    return ET.tostring(root, encoding="unicode")


def checkpoint_xml(name: str, disks: Sequence[BackupDisk], others: Sequence[str]) -> str | None:
    """Return the definition of the new checkpoint; None where no disk can be tracked."""
    if not any(disk.tracked for disk in disks):
        return None
    root = ET.Element("domaincheckpoint")
    ET.SubElement(root, "name").text = name
    nodes = ET.SubElement(root, "disks")
    for disk in disks:
        ET.SubElement(nodes, "disk", name=disk.target, checkpoint="bitmap" if disk.tracked else "no")
    for target in others:
        ET.SubElement(nodes, "disk", name=target, checkpoint="no")
    return ET.tostring(root, encoding="unicode")


def running_socket(domain: Any) -> str | None:
    """Return the socket of the backup job that runs on this domain ("" if it has none), or None if none runs."""
    try:
        server = parse(domain.backupGetXMLDesc()).find("server")
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_BACKUP:
            return None
        raise translated(error, domain.name()) from error
    return "" if server is None else server.get("socket", "")


def check_idle(domain: Any) -> None:
    """Raise `MachineBusy` if a migration, save or another's backup holds the domain: libvirt would wait 30 s for it."""
    if running_socket(domain) is not None:
        raise MachineBusy(f"{domain.name()}: another backup job runs")
    with libvirt_errors(domain.name()):
        job = domain.jobInfo()[0]
    if job != libvirt.VIR_DOMAIN_JOB_NONE:
        raise MachineBusy(f"{domain.name()}: libvirt is busy with another operation on it")


def abort(domain: Any, socket: Path) -> None:
    """End the backup job with this socket and wait until it is gone. Nothing happens if it does not run."""
    if running_socket(domain) != str(socket):
        return
    try:
        domain.abortJob()
    except libvirt.libvirtError as error:
        if running_socket(domain) is not None:
            raise translated(error, domain.name()) from error
    deadline = time.monotonic() + _ABORT_TIMEOUT_S
    while running_socket(domain) == str(socket):
        if time.monotonic() > deadline:
            raise HypervisorFailed(f"{domain.name()}: the backup job did not end within {_ABORT_TIMEOUT_S} s")
        time.sleep(_ABORT_POLL_S)
