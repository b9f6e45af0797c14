"""The definition of a restored machine: rebuilt from a kept one, taken as it is, or made for disks from elsewhere."""

import string
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from typing import Any

import libvirt
import msgspec

from vbr_kvm.allowed import filtered
from vbr_kvm.connection import parse
from vbr_kvm.host import KvmHost
from vbrcore.model.errors import InvalidValue
from vbrcore.plugins.api import RestoreDisk

_PREFIXES = {"sata": "sd", "scsi": "sd", "usb": "sd", "virtio": "vd"}  # target names by bus
_MEMORY_MIB = 2048
_VCPUS = 2


class NewDisk(msgspec.Struct, frozen=True):
    """Where a restored disk lies."""

    path: str
    format: str


class Host:
    """What this host has, asked once: the definition must fit it, not the host the machine came from."""

    def __init__(self, connection: Any, host: KvmHost) -> None:
        self._connection = connection
        self._host = host
        self.domain_types = {
            node.get("type", "")
            for node in parse(connection.getCapabilities()).findall("guest/arch[@name='x86_64']/domain")
        }

    def has_network(self, name: str) -> bool:
        try:
            return bool(self._connection.networkLookupByName(name).isActive())
        except libvirt.libvirtError:
            return False

    def has_bridge(self, name: str) -> bool:
        return bool(name) and "/" not in name and name not in {".", ".."} and self._host.has_bridge(name)

    def firmwares(self, machine: str, kind: str) -> set[str]:
        """Return the firmware images that libvirt offers for a machine type: the only ones a loader may name."""
        try:
            text = self._connection.getDomainCapabilities(None, None, machine or None, kind or None, 0)
        except libvirt.libvirtError:
            return set()
        return {node.text or "" for node in parse(text).findall("os/loader/value")}

    def best_type(self, wanted: str) -> str:
        if wanted in self.domain_types:
            return wanted
        return "kvm" if "kvm" in self.domain_types else "qemu"


def rebuild(host: Host, kept: ET.Element, disks: Mapping[str, NewDisk]) -> tuple[ET.Element, list[str]]:
    """Return a definition of what may be taken over, and what was left out. `disks` by target."""
    left_out: list[str] = []
    kind = host.best_type(kept.get("type", "kvm"))
    if kind != kept.get("type"):
        left_out.append(f"acceleration ({kept.get('type')}: not on this host)")
    root = filtered(kept, "domain", left_out)
    if root is None or root.find("os/type") is None or not kept.findtext("memory"):
        raise InvalidValue("the kept definition is none of a machine")
    root.set("type", kind)
    _set_loader(host, kept, root, left_out)
    devices = root.find("devices")
    if devices is None:
        devices = ET.SubElement(root, "devices")
    for node in devices.findall("disk"):
        target = _target(node)
        if target in disks:
            _place(node, disks[target])
        else:
            devices.remove(node)
            left_out.append(f"devices/disk ({target})")
    for node in devices.findall("interface"):
        _connect(host, node, left_out)
    for node in devices.findall("graphics"):
        node.set("autoport", "yes")
    return root, sorted(set(left_out))


def trusted(kept: ET.Element, disks: Mapping[str, NewDisk]) -> ET.Element:
    """Return the kept definition as it is, with the restored disks in place of the old ones."""
    for node in kept.findall("devices/disk"):
        target = _target(node)
        if target in disks:
            for name in ("source", "backingStore", "mirror"):
                for child in node.findall(name):
                    node.remove(child)
            _place(node, disks[target])
    return kept


def foreign(host: Host, options: Mapping[str, str], placed: Mapping[str, NewDisk]) -> ET.Element:
    """Return a definition with hardware that most systems find drivers for."""
    root = ET.Element("domain", type=host.best_type("kvm"))
    ET.SubElement(root, "memory", unit="MiB").text = str(_number(options, "memory_mib", _MEMORY_MIB))
    ET.SubElement(root, "vcpu").text = str(_number(options, "vcpus", _VCPUS))
    system = ET.SubElement(root, "os")
    if options.get("firmware", "bios") == "efi":
        system.set("firmware", "efi")
    ET.SubElement(system, "type", arch="x86_64", machine="q35").text = "hvm"
    features = ET.SubElement(root, "features")
    ET.SubElement(features, "acpi")
    ET.SubElement(features, "apic")
    if root.get("type") == "kvm":
        ET.SubElement(root, "cpu", mode="host-model")
    ET.SubElement(root, "clock", offset="utc")
    devices = ET.SubElement(root, "devices")
    bus = foreign_bus(options)
    for target, disk in placed.items():
        node = ET.SubElement(devices, "disk", device="disk")
        ET.SubElement(node, "target", dev=target, bus=bus)
        _place(node, disk)
    interface = ET.SubElement(devices, "interface", type="user")
    ET.SubElement(interface, "model", type="e1000e")
    if host.has_network("default"):
        interface.set("type", "network")
        ET.SubElement(interface, "source", network="default")
    ET.SubElement(devices, "console", type="pty")
    ET.SubElement(devices, "graphics", type="vnc", autoport="yes")
    video = ET.SubElement(devices, "video")
    ET.SubElement(video, "model", type="vga")
    return root


def foreign_bus(options: Mapping[str, str]) -> str:
    bus = options.get("bus", "sata")
    if bus not in _PREFIXES:
        raise InvalidValue(f"bus {bus!r}: one of {', '.join(_PREFIXES)}")
    return bus


def foreign_targets(options: Mapping[str, str], disks: tuple[RestoreDisk, ...]) -> dict[str, str]:
    """Return a target for each disk id of a machine of another hypervisor, in the order of the point."""
    prefix = _PREFIXES[foreign_bus(options)]
    if len(disks) > len(string.ascii_lowercase):
        raise InvalidValue(f"{len(disks)} disks: at most {len(string.ascii_lowercase)} can be attached")
    return {disk.disk_id: f"{prefix}{letter}" for disk, letter in zip(disks, string.ascii_lowercase, strict=False)}


def formats_of(kept: ET.Element) -> dict[str, str]:
    """Return the image format of each target in a kept definition."""
    formats = {}
    for node in kept.findall("devices/disk"):
        driver = node.find("driver")
        formats[_target(node)] = "raw" if driver is None else driver.get("type", "raw")
    return formats


def identify(root: ET.Element, name: str, machine_id: str, *, new: bool) -> None:
    """Give the machine its name and UUID; a new identity also has new network addresses and generation id."""
    for tag, value in (("uuid", machine_id), ("name", name)):
        node = root.find(tag)
        if node is None:
            node = ET.Element(tag)
            root.insert(0, node)
        node.text = value
    if new:
        for interface in root.findall("devices/interface"):
            for mac in interface.findall("mac"):
                interface.remove(mac)
        for genid in root.findall("genid"):
            genid.text = None


def _target(node: ET.Element) -> str:
    target = node.find("target")
    return "" if target is None else target.get("dev", "")


def _place(node: ET.Element, disk: NewDisk) -> None:
    node.set("type", "file")
    driver = node.find("driver")
    if driver is None:
        driver = ET.SubElement(node, "driver", name="qemu")
    driver.set("type", disk.format)
    ET.SubElement(node, "source", file=disk.path)


def _connect(host: Host, interface: ET.Element, left_out: list[str]) -> None:
    """Keep a libvirt network or a bridge of the host where it is one; otherwise the guest gets QEMU's own network."""
    source = interface.find("source")
    network = "" if source is None else source.get("network", "")
    bridge = "" if source is None else source.get("bridge", "")
    kind = interface.get("type")
    if (kind == "network" and not host.has_network(network)) or (kind == "bridge" and not host.has_bridge(bridge)):
        left_out.append(f"devices/interface/source ({kind} is not active on this host: QEMU's user network instead)")
        interface.set("type", "user")
        if source is not None:
            interface.remove(source)


def _set_loader(host: Host, kept: ET.Element, root: ET.Element, left_out: list[str]) -> None:
    """Keep the firmware image only where this host's libvirt offers the very same; otherwise libvirt chooses one."""
    system = root.find("os")
    loader = None if system is None else system.find("loader")
    if system is None or loader is None:
        return
    if system.get("firmware"):
        system.remove(loader)
        return
    wanted = kept.findtext("os/loader", "").strip()
    machine = system.find("type")
    model = "" if machine is None else machine.get("machine", "")
    if wanted in host.firmwares(model, root.get("type", "")):
        loader.text = wanted
        return
    system.remove(loader)
    system.set("firmware", "efi")
    left_out.append("os/loader (not on this host: libvirt chooses the firmware)")


def _number(options: Mapping[str, str], name: str, default: int) -> int:
    text = options.get(name, str(default))
    if not text.isdigit() or int(text) < 1:
        raise InvalidValue(f"{name} {text!r}: a whole number from 1 expected")
    return int(text)
