"""The verbs of `host.KvmHost` on a managed server: constant scripts and SFTP over SSH, no Python there."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vbr_kvm import images, kept, places
from vbr_kvm.configuration import files_in
from vbr_kvm.connection import open_connection
from vbr_kvm.findings import ask, kvm_findings
from vbr_kvm.settings import KvmSettings
from vbr_kvm.tunnel import ended_reason
from vbrcore.model.errors import (
    CommandFailed,
    HypervisorFailed,
    HypervisorUnreachable,
    InvalidValue,
    PermissionRefused,
    SinkWriteFailed,
    SnapshotInvalid,
)
from vbrcore.plugins.api import ManagedHost
from vbrcore.plugins.ssh import SshHost

_SOCKET_DIRECTORY = """
set -eu
root=$1 path=$2 user=$3 group=$4
umask 077
[ -d "$root" ] || mkdir -p -m 711 "$root"
if [ -h "$root" ] || ! [ -O "$root" ] || [ -n "$(find "$root" -prune -perm /022)" ]; then
    echo "$root is not a directory of this account, or others can write to it" >&2
    exit 1
fi
chmod 711 "$root"
rm -rf "$path"
mkdir -m 700 "$path"
if [ "$(id -u)" = 0 ]; then
    chown "$user:$group" "$path"
elif [ "$user" != "$(id -u)" ]; then
    setfacl -m "u:$user:rwx" -m "d:u:$(id -u):rwx" -m g::--- -m o::--- "$path"
fi
"""
_SCRATCH_ROOT = 'set -eu; [ -d "$1" ] || { mkdir -p "$1"; chmod 711 "$1"; }'
_REMOVE_SCRATCH = 'set -eu; [ -w "$1" ] || exit 0; find "$1" -maxdepth 1 -type f -name "$2.*.scratch" -delete'
_NOTE = 'umask 077; printf %s "$2" >"$1"'
_REMOVE_DIRECTORY = 'rm -rf "$1"'
_REMOVE_FILE = 'rm -f "$1"'
_STAMP = """
if ! [ -e "$1" ] && ! [ -h "$1" ]; then echo gone; exit 0; fi
if [ -b "$1" ]; then
    device=$(printf '%d:%d' 0x$(stat -L -c %t "$1") 0x$(stat -L -c %T "$1")) || exit 1
    echo "$device:$(awk '{ print $5 }' "/sys/dev/block/$device/stat")"
else
    stat -L -c '%d:%i:%s:%y' "$1"
fi
"""
_READABLE = """
if ! [ -e "$1" ]; then echo absent; elif [ -r "$1" ]; then echo readable; else echo denied; fi
"""
_UNREADABLE = 'for path; do [ -r "$path" ] || printf "%s\\n" "$path"; done'
_TPM_ACCOUNT = "if id tss >/dev/null 2>&1; then id -u tss; id -g tss; fi"
_BITMAPS = 'exec qemu-img info --force-share --output=json -f qcow2 "$1"'
_HEAD = '[ -r "$1" ] && exec head -c 8 "$1"; exit 0'
_REMOVE_BITMAP = 'exec qemu-img bitmap --remove -f qcow2 "$1" "$2"'
_DIRECTORY = """
if ! [ -d "$1" ]; then echo absent; elif [ -w "$1" ] && [ -x "$1" ]; then echo writable; else echo denied; fi
"""
_TPM_DIRECTORY = """
set -eu
umask 077
[ -d "${1%/*}" ] || mkdir -m 711 "${1%/*}"
mkdir "$1"
"""
_GIVE = 'if [ "$(id -u)" = 0 ]; then chown "$2:$3" "$1"; fi'
_BRIDGE = 'if [ -d "/sys/class/net/$1/bridge" ]; then echo yes; fi'


class RemoteHost:
    """A managed server with a system libvirt, reached by its own SSH access."""

    def __init__(self, settings: KvmSettings, managed: ManagedHost) -> None:
        self._settings = settings
        self.managed = managed
        self.ssh = SshHost(managed.access, managed.secrets, name=managed.name)
        try:
            self.facts = ask(self.ssh)
        except BaseException:
            self.ssh.close()
            raise

    def _ask(self, script: str, *words: str | Path) -> str:
        return self.ssh.run(script, *map(str, words)).decode(errors="surrogateescape").strip()

    def _numbers(self, script: str) -> tuple[int, int] | None:
        found = self._ask(script).split()
        return (int(found[0]), int(found[1])) if len(found) == 2 else None

    def open_libvirt(self) -> Any:
        """Open libvirt through its socket there: one login and one host key for everything."""
        worst = next((one for one in kvm_findings(self.facts) if one.level == "error"), None)
        try:
            if not self.facts.socket:
                raise HypervisorUnreachable(f"{self.ssh.where}: libvirt has no socket there")
            with self.ssh.forwarded(self.facts.socket) as local:
                return open_connection(f"qemu+unix:///system?socket={local}")
        except (HypervisorUnreachable, PermissionRefused) as error:
            if worst is None:
                raise
            kind = PermissionRefused if worst.code == "libvirt_denied" else HypervisorUnreachable
            raise kind(f"{self.ssh.where}: {worst.text} ({worst.hint})") from error

    def runtime_root(self) -> Path:
        user = self.facts.uid
        return Path("/run/libvirt/vbrcore") if user == 0 else Path(f"/var/tmp/vbrcore-kvm-{user}")  # noqa: S108 (owner is checked)

    def scratch_root(self) -> Path:
        if self._settings.scratch_directory:
            return Path(self._settings.scratch_directory)
        default = Path("/var/lib/libvirt/vbrcore-scratch")
        return default if self.facts.uid == 0 else self.runtime_root() / "scratch"

    def own_account(self) -> tuple[int, int]:
        return self.facts.uid, self.facts.gid

    def make_socket_directory(self, path: Path, qemu: tuple[int, int]) -> None:
        try:
            self._ask(_SOCKET_DIRECTORY, path.parent, path, str(qemu[0]), str(qemu[1]))
        except CommandFailed as error:
            raise PermissionRefused(f"directory for QEMU's backup socket: {error}") from error

    def make_scratch_root(self, path: Path) -> None:
        try:
            self._ask(_SCRATCH_ROOT, path)
        except CommandFailed as error:
            raise InvalidValue(f"scratch_directory {path}: {error}") from error

    def space(self, path: Path) -> tuple[int, int]:
        try:
            return self.ssh.space(str(path))
        except CommandFailed as error:
            raise HypervisorFailed(f"{path}: free space cannot be asked: {error}") from error

    def remove_scratch_files(self, root: Path, name: str) -> None:
        self._ask(_REMOVE_SCRATCH, root, name)

    def write_ended(self, directory: Path, reason: str) -> None:
        self._ask(_NOTE, directory / places.ENDED, reason)

    def ended_reason(self, directory: Path) -> str:
        return ended_reason(self.ssh, directory)

    def remove_directory(self, path: Path) -> None:
        self._ask(_REMOVE_DIRECTORY, path)

    def stamp(self, path: str) -> str:
        try:
            found = self._ask(_STAMP, path)
        except CommandFailed as error:
            raise PermissionRefused(f"{path}: {error}") from error
        if found == "gone":
            raise SnapshotInvalid(f"{path}: the image is gone")
        return found

    def unreadable(self, paths: Sequence[str]) -> list[str]:
        return self._ask(_UNREADABLE, *paths).splitlines() if paths else []

    def readable(self, path: str, what: str, warnings: list[str]) -> str:
        if not path:
            return ""
        found = self._ask(_READABLE, path)
        if found == "denied":
            warnings.append(f"{what} not kept: {path} cannot be read by {self.ssh.user} on {self.ssh.where}")
        return path if found == "readable" else ""

    def tpm_directory(self, machine_id: str, version: str) -> Path:
        return kept.system_tpm_directory(machine_id, version)

    def tpm_account(self, qemu: tuple[int, int]) -> tuple[int, int]:
        return self._numbers(_TPM_ACCOUNT) or qemu

    def bitmaps(self, path: str) -> set[str]:
        try:
            return images.named_in(self.ssh.run(_BITMAPS, path))
        except CommandFailed:
            return set()

    def head(self, path: str) -> bytes:
        return self.ssh.run(_HEAD, path)

    def remove_bitmap(self, path: str, name: str) -> bool:
        try:
            self._ask(_REMOVE_BITMAP, path, name)
        except CommandFailed as error:
            return any(sign in str(error) for sign in images.GONE)
        return True

    def images_root(self) -> Path:
        return Path("/var/lib/libvirt/images")

    def check_directory(self, path: Path) -> None:
        found = self._ask(_DIRECTORY, path)
        if found == "absent":
            raise InvalidValue(f"directory {path} does not exist on {self.ssh.where}")
        if found == "denied":
            raise PermissionRefused(
                f"{path} cannot be written by {self.ssh.user} on {self.ssh.where}: choose another with directory="
            )

    def exists(self, path: str) -> bool:
        return self.ssh.exists(path)

    def write_new(self, path: Path, data: bytes, owner: tuple[int, int]) -> None:
        try:
            self.ssh.write_new(str(path), data, owner if self.facts.uid == 0 else None)
        except (CommandFailed, FileNotFoundError) as error:
            raise SinkWriteFailed(f"{path}: {error}") from error

    def write_tpm(self, data: bytes, path: Path, owner: tuple[int, int]) -> None:
        try:
            self._ask(_TPM_DIRECTORY, path)
            for name, content in files_in(data):
                self.write_new(path / name, content, owner)
            self._ask(_GIVE, path, str(owner[0]), str(owner[1]))
        except CommandFailed as error:
            raise SinkWriteFailed(f"TPM state: {error}") from error

    def remove_file(self, path: str) -> None:
        self._ask(_REMOVE_FILE, path)

    def has_bridge(self, name: str) -> bool:
        return self._ask(_BRIDGE, name) == "yes"

    def close(self) -> None:
        self.ssh.close()
