"""What of a domain is kept with a point, and where libvirt has it."""

import os
from pathlib import Path
from typing import Any

from vbr_kvm.domain import domain_xml, to_text
from vbrcore.plugins.api import SourceSpec

TPM_VERSIONS = {"1.2": "tpm1.2", "2.0": "tpm2"}  # libvirt's directory names


def configuration_source(domain: Any, uri: str) -> tuple[SourceSpec, list[str]]:
    """Return what the mover needs to read a domain's configuration, and what of it cannot be read as warnings.

    The definition is that of the next start, without the passwords in it.
    """
    xml = domain_xml(domain, inactive=True)
    warnings: list[str] = []
    nvram = xml.findtext("os/nvram") or ""
    if nvram and not os.access(nvram, os.R_OK):
        warnings.append(f"NVRAM not kept: {nvram} cannot be read")
        nvram = ""
    tpm = ""
    backend = xml.find("devices/tpm/backend[@type='emulator']")
    if backend is not None:
        tpm = str(tpm_directory(uri, domain.UUIDString(), backend.get("version", "2.0")))
        if not os.access(tpm, os.R_OK | os.X_OK):
            warnings.append(f"TPM state not kept: {tpm} cannot be read")
            tpm = ""
    return SourceSpec("kvm", "configuration", {"xml": to_text(xml), "nvram": nvram, "tpm": tpm}), warnings


def tpm_directory(uri: str, machine_id: str, version: str) -> Path:
    """Return where libvirt keeps the state of a machine's emulated TPM."""
    if uri == "qemu:///session":
        configuration = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        root = Path(configuration) / "libvirt/qemu/swtpm"
    else:
        root = Path("/var/lib/libvirt/swtpm")
    return root / machine_id / TPM_VERSIONS.get(version, "tpm2")
