"""Opening libvirt, and its errors as ours."""

import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from vbrcore.model.errors import (
    HypervisorFailed,
    HypervisorUnreachable,
    InvalidValue,
    MachineBusy,
    MachineNotFound,
    PermissionRefused,
    VbrError,
)

_BUSY = frozenset(
    {
        libvirt.VIR_ERR_OPERATION_TIMEOUT,  # another job holds the domain's state
        libvirt.VIR_ERR_RESOURCE_BUSY,
        libvirt.VIR_ERR_BLOCK_COPY_ACTIVE,
        libvirt.VIR_ERR_MIGRATE_UNSAFE,
    }
)
_DENIED = frozenset({libvirt.VIR_ERR_ACCESS_DENIED, libvirt.VIR_ERR_AUTH_FAILED, libvirt.VIR_ERR_AUTH_UNAVAILABLE})


def open_connection(uri: str) -> Any:
    """Return an open `virConnect`. Raises `HypervisorUnreachable` or `PermissionRefused`."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)  # it prints to stderr otherwise
    try:
        return libvirt.open(uri)
    except libvirt.libvirtError as error:
        if error.get_error_code() in _DENIED:
            raise PermissionRefused(f"{uri}: {error}") from error
        raise HypervisorUnreachable(f"{uri}: {error}") from error


@contextmanager
def libvirt_errors(what: str) -> Iterator[None]:
    """Turn a libvirt error inside the block into one of ours; `what` names the machine or object."""
    try:
        yield
    except libvirt.libvirtError as error:
        raise translated(error, what) from error


def translated(error: Any, what: str) -> VbrError:
    code = error.get_error_code()
    text = f"{what}: {error}"
    if code == libvirt.VIR_ERR_NO_DOMAIN:
        return MachineNotFound(text)
    if code in _BUSY:
        return MachineBusy(text)
    if code in _DENIED:
        return PermissionRefused(text)
    if error.get_error_domain() == libvirt.VIR_FROM_RPC or code == libvirt.VIR_ERR_INVALID_CONN:
        return HypervisorUnreachable(text)
    return HypervisorFailed(text)


def find_domain(connection: Any, machine_id: str) -> Any:
    """Return the `virDomain` of a machine id (its UUID). Raises `MachineNotFound`."""
    try:
        return connection.lookupByUUIDString(machine_id)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_INVALID_ARG:
            raise MachineNotFound(f"{machine_id!r} is no id of a libvirt machine") from error
        raise translated(error, machine_id) from error


def parse(text: str) -> ET.Element:
    """Parse XML of libvirt or of a restore point. No entities: nothing here has a document type."""
    if "<!" in text.replace("<!--", ""):
        raise InvalidValue("a machine's definition contains a document type or CDATA")
    try:
        return ET.fromstring(text)  # noqa: S314 (entities are refused above)
    except ET.ParseError as error:
        raise InvalidValue(f"a machine's definition is no XML: {error}") from error


def qemu_account(connection: Any, domain_xml: ET.Element | None, ours: tuple[int, int]) -> tuple[int, int]:
    """Return user and group id that QEMU runs as: of this domain where it says so, else libvirt's default.

    A libvirt of one user says nothing of accounts: its QEMU runs as that user, `ours`. The definition of a running
    domain names it; libvirt's capabilities are asked only where it does not, because that can take many seconds.
    """
    own = [] if domain_xml is None else domain_xml.findall("seclabel[@model='dac']")
    account = _account(node.findtext("label") for node in own)
    if account is None:
        with libvirt_errors("capabilities"):
            host = parse(connection.getCapabilities()).find("host")
        models = [] if host is None else host.findall("secmodel")
        account = _account(node.findtext("baselabel") for node in models if node.findtext("model") == "dac")
    return account or ours


def _account(labels: Iterable[str | None]) -> tuple[int, int] | None:
    """Return the first of these `+uid:+gid` labels."""
    for label in labels:
        user, _, group = (label or "").replace("+", "").partition(":")
        if user.isdigit() and group.isdigit():
            return int(user), int(group)
    return None
