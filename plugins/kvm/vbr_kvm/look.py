"""What `server check` says of a libvirt: what the user of the login may do there, by trying it. Changes nothing."""

import contextlib
import getpass
from typing import Any

import msgspec

from vbr_kvm.connection import libvirt_errors
from vbr_kvm.domain import disks_of, domain_xml
from vbr_kvm.findings import images_unreadable, kvm_findings
from vbr_kvm.host import KvmHost, LocalHost
from vbr_kvm.remote import RemoteHost
from vbr_kvm.settings import KvmSettings
from vbrcore.model.errors import MachineNotFound, VbrError
from vbrcore.model.serverfacts import Finding, finding_of
from vbrcore.plugins.api import ManagedHost


def look_here(settings: KvmSettings) -> tuple[Finding, ...]:
    """Look at this machine's libvirt. Raises `HypervisorUnreachable`, `PermissionRefused`, `HypervisorFailed`."""
    lacking = unreadable_images(LocalHost(settings))
    return (images_unreadable(getpass.getuser(), lacking[0], len(lacking) - 1),) if lacking else ()


def look_there(settings: KvmSettings, managed: ManagedHost) -> tuple[Finding, ...]:
    """Look at a managed server's. Raises why it cannot be logged in to, and `HypervisorFailed`."""
    with contextlib.closing(RemoteHost(settings, managed)) as host:
        try:
            lacking = unreadable_images(host)
        except VbrError as error:
            found = kvm_findings(host.facts)
            return found if any(one.level == "error" for one in found) else (finding_of(error), *found)
        # It was let in, whatever its groups are.
        facts = msgspec.structs.replace(host.facts, socket_writable=True, in_group=True)
        if not lacking:
            return kvm_findings(facts)
        found = kvm_findings(msgspec.structs.replace(facts, unreadable=""))
        return (images_unreadable(facts.user, lacking[0], len(lacking) - 1), *found)


def unreadable_images(host: KvmHost) -> list[str]:
    """Return the images of all machines that cannot be read."""
    connection = host.open_libvirt()
    try:
        return host.unreadable(_images(connection))
    finally:
        connection.close()


def _images(connection: Any) -> list[str]:
    """Return the images of all machines' disks on file systems of the host."""
    with libvirt_errors("list of domains"):
        domains = connection.listAllDomains()
    found = set[str]()
    for domain in domains:
        try:
            xml = domain_xml(domain)
        except MachineNotFound:
            continue  # gone meanwhile
        found |= {disk.source for disk in disks_of(connection, xml, running=False) if disk.local and not disk.skipped}
    return sorted(found)
