"""The systemd unit of the backup service."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TypedDict

from vbrcore.cli.api import errors
from vbrcore.cli.paths import absolute

UNIT_NAME = "vbrcore.service"
_SYSTEM_HOME = "/var/lib/vbrcore"
_USER_HOME = "%h/.local/share/vbrcore"
_SYSTEMD_RUNS = Path("/run/systemd/system")

# What the service and its movers never need. Files stay writable: repositories and restored disks may be anywhere.
_HARDENING = (
    "NoNewPrivileges=yes",
    "LockPersonality=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
)
_SYSTEM_HARDENING = (
    "ProtectClock=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectControlGroups=yes",
)


class Installed(TypedDict):
    """What `install` did. `next_steps`: what is left to the administrator."""

    unit: str
    enabled: bool
    next_steps: list[str]


def unit_text(home: str | None, *, for_user: bool) -> str:
    """Return the unit. `KillMode=process`: sessions outlive the service, and their managers are no part of a stop."""
    named = home or os.environ.get("VBRCORE_HOME")
    place = _escaped(absolute(named)) if named else _USER_HOME if for_user else _SYSTEM_HOME
    lines = [
        "[Unit]",
        "Description=vbrcore backup service",
        *([] if for_user else ["Wants=network-online.target", "After=network-online.target libvirtd.service"]),
        "",
        "[Service]",
        "Type=exec",
        f"ExecStart={_quoted(_interpreter())} -m vbrcore service run",
        f"Environment={_quoted(f'VBRCORE_HOME={place}', escape=False)}",
        "KillMode=process",
        "Restart=on-failure",
        "RestartSec=2",
        "UMask=0077",
        "LimitNOFILE=65536",
        *_HARDENING,
        *(() if for_user else _SYSTEM_HARDENING),
        "",
        "[Install]",
        f"WantedBy={'default.target' if for_user else 'multi-user.target'}",
    ]
    return "\n".join(lines) + "\n"


def install(text: str, *, for_user: bool) -> Installed:
    """Write the unit and enable it where systemd runs; raises `PermissionRefused` where that is not allowed."""
    path = _directory(for_user=for_user) / UNIT_NAME
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except PermissionError as error:
        raise errors.PermissionRefused(f"{path} cannot be written: use root's rights, or --user") from error
    systemctl = ["systemctl", *(["--user"] if for_user else [])]
    commands = [[*systemctl, "daemon-reload"], [*systemctl, "enable", "--now", UNIT_NAME]]
    if not _SYSTEMD_RUNS.is_dir():
        steps = ["systemd does not run here. Where it does:", *(f"  {' '.join(command)}" for command in commands)]
        steps.append(f"Without systemd, have your init system run: {sys.executable} -m vbrcore service run")
        return {"unit": str(path), "enabled": False, "next_steps": steps}
    for command in commands:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            raise errors.ServiceUnavailable(f"{' '.join(command)}: {done.stderr.strip()}")
    linger = ["loginctl enable-linger    # so that it also runs while you are not logged in"] if for_user else []
    return {"unit": str(path), "enabled": True, "next_steps": linger}


def _directory(*, for_user: bool) -> Path:
    if not for_user:
        return Path("/etc/systemd/system")
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"


def _interpreter() -> str:
    """The interpreter of this environment: its own path, not what it links to, or its packages would be lost."""
    return absolute(sys.executable)


def _escaped(text: str) -> str:
    return text.replace("%", "%%")


def _quoted(text: str, *, escape: bool = True) -> str:
    """Quote as systemd reads it: percent signs start specifiers, dollars are variables of ExecStart."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    if escape:
        quoted = _escaped(quoted).replace("$", "$$")
    return f'"{quoted}"'
