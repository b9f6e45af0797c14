"""Freezing a guest's file systems through its agent, for as long as it takes to begin a backup."""

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from vbr_kvm.connection import translated

AGENT = "org.qemu.guest_agent.0"
_AGENT_TIMEOUT_S = 30


def agent_connected(xml: ET.Element) -> bool:
    """Tell from the running definition whether the guest agent answers."""
    channels = xml.findall("devices/channel/target")
    return any(node.get("name") == AGENT and node.get("state") == "connected" for node in channels)


@contextmanager
def frozen(domain: Any, warnings: list[str]) -> Iterator[None]:
    """Freeze, run the block, thaw whatever happened. A guest that cannot be frozen is a warning."""
    try:
        domain.agentSetResponseTimeout(_AGENT_TIMEOUT_S)
        domain.fsFreeze()
    except libvirt.libvirtError as error:
        thaw(domain)
        warnings.append(f"not quiesced: {error}")
        yield
        return
    try:
        yield
    except BaseException:
        thaw(domain)
        raise
    try:
        domain.fsThaw()
    except libvirt.libvirtError as error:
        raise translated(error, f"{domain.name()}: file systems could not be thawed") from error


def thaw(domain: Any) -> None:
    """Thaw; a guest that is not frozen, or has no agent any more, is left alone."""
    try:
        domain.fsThaw()
    except libvirt.libvirtError:
        return
