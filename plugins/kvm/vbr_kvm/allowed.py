"""Which elements of a kept definition are taken over into a restored machine.

A restore point may come from a stranger, and a definition can name any file, device and program of the host. So it is
rebuilt from what is listed here: what the guest sees, and nothing that reaches the host. Everything else is left out
and named.
"""

import re
import xml.etree.ElementTree as ET

# element -> attributes kept as they are. "**": the whole subtree below holds only numbers and names of features.
_TREE = """
domain type
domain/title
domain/description
domain/genid
domain/memory unit
domain/currentMemory unit
domain/maxMemory unit slots
domain/vcpu placement current
domain/vcpus **
domain/iothreads
domain/os firmware
domain/os/type arch machine
domain/os/boot dev
domain/os/bootmenu enable timeout
domain/os/bios useserial rebootTimeout
domain/os/firmware **
domain/os/loader readonly secure type format
domain/features **
domain/cpu **
domain/clock **
domain/pm **
domain/on_poweroff
domain/on_reboot
domain/on_crash
domain/devices
domain/devices/controller type index model ports vectors
domain/devices/controller/model name
domain/devices/controller/target chassis chassisNr port busNr index hotplug
domain/devices/controller/driver queues cmd_per_lun max_sectors iothread
domain/devices/controller/address **
domain/devices/interface type
domain/devices/interface/source network bridge
domain/devices/interface/mac address
domain/devices/interface/model type
domain/devices/interface/mtu size
domain/devices/interface/boot order
domain/devices/interface/link state
domain/devices/interface/address **
domain/devices/input type bus
domain/devices/input/address **
domain/devices/graphics type autoport keymap
domain/devices/video
domain/devices/video/model type ram vram vgamem heads primary
domain/devices/video/address **
domain/devices/sound model
domain/devices/sound/address **
domain/devices/serial type
domain/devices/serial/target **
domain/devices/console type
domain/devices/console/target **
domain/devices/channel type
domain/devices/channel/target type name
domain/devices/channel/address **
domain/devices/memballoon model autodeflate freePageReporting
domain/devices/memballoon/address **
domain/devices/rng model
domain/devices/rng/backend model
domain/devices/rng/address **
domain/devices/tpm model
domain/devices/tpm/backend type version
domain/devices/watchdog model action
domain/devices/watchdog/address **
domain/devices/panic model
domain/devices/panic/address **
domain/devices/disk device
domain/devices/disk/driver name cache io discard detect_zeroes error_policy rerror_policy queues iothread
domain/devices/disk/target dev bus rotation_rate removable
domain/devices/disk/serial
domain/devices/disk/wwn
domain/devices/disk/vendor
domain/devices/disk/product
domain/devices/disk/boot order
domain/devices/disk/blockio logical_block_size physical_block_size
domain/devices/disk/geometry **
domain/devices/disk/address **
"""

ALLOWED = {name: frozenset(attributes) for name, *attributes in (line.split() for line in _TREE.split("\n") if line)}
_SUBTREES = frozenset(name for name, attributes in ALLOWED.items() if "**" in attributes)

# Where an element comes in kinds, only those that reach no file, program or device of the host.
_KINDS = {
    "domain/devices/interface": frozenset({"network", "bridge", "user"}),
    "domain/devices/graphics": frozenset({"vnc", "spice"}),
    "domain/devices/serial": frozenset({"pty"}),
    "domain/devices/console": frozenset({"pty"}),
    "domain/devices/channel": frozenset({"unix", "spicevmc"}),
    "domain/devices/tpm/backend": frozenset({"emulator"}),
    "domain/os/loader": frozenset({"pflash", "rom"}),
}
_ENTROPY = "/dev/urandom"
_PATH = re.compile(r"(^|[=:,])/")
# Assigned by libvirt at the next start, or put in place by the restore: nothing is lost with them.
_SILENT = frozenset(
    {
        "domain/name",
        "domain/uuid",
        "domain/resource",
        "domain/seclabel",
        "domain/os/nvram",
        "domain/devices/emulator",
        "domain/devices/disk/source",
        "domain/devices/disk/backingStore",
        "domain/devices/disk/mirror",
        "domain/devices/graphics/listen",
        "domain/devices/audio",
    }
)


def filtered(element: ET.Element, path: str, left_out: list[str]) -> ET.Element | None:
    """Return a copy of an element with what is allowed in it; None if it is not. `left_out` gets what was not taken."""
    allowed = ALLOWED.get(path)
    kinds = _KINDS.get(path)
    if allowed is None or (kinds is not None and element.get("type") not in kinds):
        if path not in _SILENT:
            left_out.append(_named(element, path))
        return None
    if path in _SUBTREES:
        return _harmless(element, path, left_out)
    copy = ET.Element(element.tag, {name: value for name, value in element.attrib.items() if name in allowed})
    if element.text and element.text.strip() and not _PATH.search(element.text.strip()):
        copy.text = element.text.strip()
    if path == "domain/devices/rng/backend" and element.get("model") == "random":
        copy.text = _ENTROPY
    for child in element:
        kept = filtered(child, f"{path}/{child.tag}", left_out)
        if kept is not None:
            copy.append(kept)
    return copy


def _harmless(element: ET.Element, path: str, left_out: list[str]) -> ET.Element | None:
    """Copy a subtree unless anything in it looks like a path."""
    texts = [text for node in element.iter() for text in (node.text or "", *node.attrib.values())]
    if any(_PATH.search(text.strip()) for text in texts):
        left_out.append(_named(element, path))
        return None
    return ET.fromstring(ET.tostring(element))  # noqa: S314 (what was parsed before)


def _named(element: ET.Element, path: str) -> str:
    """Return how an element is called in the list of what was left out: path and kind, no values of a stranger."""
    tag = path.rpartition("/")[2].rpartition("}")[2]
    parent = path.rpartition("/")[0].removeprefix("domain").lstrip("/")
    kind = element.get("type") or element.get("model") or element.get("device") or ""
    name = f"{parent}/{tag}" if parent else tag
    return f"{name} ({kind})" if re.fullmatch(r"[A-Za-z0-9_-]{1,32}", kind) else name
