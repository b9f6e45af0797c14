"""What of a domain is kept with a point, and where libvirt has it."""

import os
import pwd
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vbr_kvm.domain import domain_xml, to_text
from vbr_kvm.settings import is_users_own
from vbrcore.plugins.api import SourceSpec

if TYPE_CHECKING:
    from vbr_kvm.host import KvmHost

TPM_VERSIONS = {"1.2": "tpm1.2", "2.0": "tpm2"}  # libvirt's directory names


def configuration_source(domain: Any, host: "KvmHost") -> tuple[SourceSpec, list[str]]:
    """Return what the mover needs to read a domain's configuration, and what of it cannot be read as warnings.

    The definition is that of the next start, without the passwords in it.
    """
    xml = domain_xml(domain, inactive=True)
    warnings: list[str] = []
    nvram = host.readable(xml.findtext("os/nvram") or "", "NVRAM", warnings)
    tpm = ""
    backend = xml.find("devices/tpm/backend[@type='emulator']")
    if backend is not None:
        directory = host.tpm_directory(domain.UUIDString(), backend.get("version", "2.0"))
        tpm = host.readable(str(directory), "TPM state", warnings)
    return SourceSpec("kvm", "configuration", {"xml": to_text(xml), "nvram": nvram, "tpm": tpm}), warnings


def readable(path: str, what: str, warnings: list[str]) -> str:
    """Return `path` if it can be read, else ""; a warning unless there is nothing (a machine that never started)."""
    try:
        if path and os.stat(path) and os.access(path, os.R_OK):  # noqa: PTH116 (Path.exists hides what is forbidden)
            return path
    except FileNotFoundError:
        return ""
    except OSError as error:
        warnings.append(f"{what} not kept: {error}")
        return ""
    if path:
        warnings.append(f"{what} not kept: {path} cannot be read")
    return ""


def tpm_directory(uri: str, machine_id: str, version: str) -> Path:
    """Return where libvirt keeps the state of a machine's emulated TPM."""
    if is_users_own(uri):
        configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return Path(configuration) / "libvirt/qemu/swtpm" / machine_id / TPM_VERSIONS.get(version, "tpm2")
    return system_tpm_directory(machine_id, version)


def system_tpm_directory(machine_id: str, version: str) -> Path:
    return Path("/var/lib/libvirt/swtpm") / machine_id / TPM_VERSIONS.get(version, "tpm2")


def tpm_account(uri: str, qemu: tuple[int, int]) -> tuple[int, int]:
    """Return the account that libvirt runs swtpm as: `tss` where there is one (qemu.conf can say another)."""
    if is_users_own(uri):
        return qemu
    try:
        found = pwd.getpwnam("tss")
    except KeyError:
        return qemu
    return found.pw_uid, found.pw_gid
