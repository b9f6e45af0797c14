"""What is done on the host of the machines beside libvirt: one set of verbs, here for this machine.

`remote.RemoteHost` has the same ones for a managed server. Paths are those of the host.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vbr_kvm import configuration, images, kept, offline, places
from vbr_kvm.connection import open_connection
from vbr_kvm.settings import KvmSettings
from vbrcore.model.errors import InvalidValue, PermissionRefused


class KvmHost(Protocol):
    """The verbs. They raise the errors of `vbrcore.model.errors`."""

    def open_libvirt(self) -> Any:
        """Open a `virConnect`. Raises `HypervisorUnreachable`, `PermissionRefused`."""

    def runtime_root(self) -> Path:
        """Return the directory that holds the directories of running backups."""

    def scratch_root(self) -> Path:
        """Return the directory for scratch files."""

    def own_account(self) -> tuple[int, int]:
        """Return the user and group that we are there."""

    def make_socket_directory(self, path: Path, qemu: tuple[int, int]) -> None:
        """Make a backup's own directory, empty, that QEMU's account can enter."""

    def make_scratch_root(self, path: Path) -> None:
        """Make the scratch directory where there is none."""

    def space(self, path: Path) -> tuple[int, int]:
        """Return size and free bytes of a file system. Raises `OSError` too."""

    def remove_scratch_files(self, root: Path, name: str) -> None:
        """Remove what libvirt left of a backup's scratch files."""

    def write_ended(self, directory: Path, reason: str) -> None:
        """Leave a note why a backup was ended."""

    def ended_reason(self, directory: Path) -> str:
        """Return that note; "": there is none."""

    def remove_directory(self, path: Path) -> None:
        """Remove a directory of ours with all that is in it, if it is there."""

    def stamp(self, path: str) -> str:
        """Return what changes when an image is written or replaced. Raises `SnapshotInvalid`, `PermissionRefused`."""

    def unreadable(self, paths: Sequence[str]) -> list[str]:
        """Return those of `paths` that we cannot read there."""

    def readable(self, path: str, what: str, warnings: list[str]) -> str:
        """Return `path` if it can be read, else ""; with a warning unless there is nothing."""

    def tpm_directory(self, machine_id: str, version: str) -> Path:
        """Return where libvirt keeps the state of a machine's emulated TPM."""

    def tpm_account(self, qemu: tuple[int, int]) -> tuple[int, int]:
        """Return the account that libvirt runs swtpm as."""

    def bitmaps(self, path: str) -> set[str]:
        """Return the bitmaps in a qcow2 image; none where it cannot be read."""

    def head(self, path: str) -> bytes:
        """Return the first 8 bytes of an image; b"" where it cannot be read."""

    def remove_bitmap(self, path: str, name: str) -> bool:
        """Remove a bitmap from an image that nobody has open; True also where image or bitmap are gone."""

    def images_root(self) -> Path:
        """Return libvirt's own directory for images."""

    def check_directory(self, path: Path) -> None:
        """Raise `InvalidValue` or `PermissionRefused` unless new files can be made in a directory."""

    def exists(self, path: str) -> bool:
        """Tell whether there is anything of this name."""

    def write_new(self, path: Path, data: bytes, owner: tuple[int, int]) -> None:
        """Write a new file, mode 0600, for an account. Raises `AlreadyExists`, `SinkWriteFailed`."""

    def write_tpm(self, data: bytes, path: Path, owner: tuple[int, int]) -> None:
        """Unpack a TPM's state into a new directory. Raises `DataCorrupt`, `SinkWriteFailed`."""

    def remove_file(self, path: str) -> None:
        """Remove a file if it is there."""

    def has_bridge(self, name: str) -> bool:
        """Tell whether the host has a network bridge of this name."""

    def close(self) -> None:
        """Give back what is open. Idempotent."""


class LocalHost:
    """This machine."""

    def __init__(self, settings: KvmSettings) -> None:
        self._settings = settings

    def open_libvirt(self) -> Any:
        return open_connection(self._settings.uri)

    def runtime_root(self) -> Path:
        return places.runtime_root(self._settings.uri)

    def scratch_root(self) -> Path:
        return places.scratch_root(self._settings)

    def own_account(self) -> tuple[int, int]:
        return os.getuid(), os.getgid()

    def make_socket_directory(self, path: Path, qemu: tuple[int, int]) -> None:
        places.make_socket_directory(path, qemu)

    def make_scratch_root(self, path: Path) -> None:
        places.make_scratch_root(path)

    def space(self, path: Path) -> tuple[int, int]:
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize

    def remove_scratch_files(self, root: Path, name: str) -> None:
        places.remove_scratch_files(root, name)

    def write_ended(self, directory: Path, reason: str) -> None:
        places.write_ended(directory, reason)

    def ended_reason(self, directory: Path) -> str:
        return places.ended_reason(directory)

    def remove_directory(self, path: Path) -> None:
        shutil.rmtree(path, ignore_errors=True)

    def stamp(self, path: str) -> str:
        return offline.stamp(path)

    def unreadable(self, paths: Sequence[str]) -> list[str]:
        return [path for path in paths if not os.access(path, os.R_OK)]

    def readable(self, path: str, what: str, warnings: list[str]) -> str:
        return kept.readable(path, what, warnings)

    def tpm_directory(self, machine_id: str, version: str) -> Path:
        return kept.tpm_directory(self._settings.uri, machine_id, version)

    def tpm_account(self, qemu: tuple[int, int]) -> tuple[int, int]:
        return kept.tpm_account(self._settings.uri, qemu)

    def bitmaps(self, path: str) -> set[str]:
        return images.bitmaps(path)

    def head(self, path: str) -> bytes:
        return images.head(path)

    def remove_bitmap(self, path: str, name: str) -> bool:
        return images.remove_bitmap(path, name)

    def images_root(self) -> Path:
        return places.images_root(self._settings.uri)

    def check_directory(self, path: Path) -> None:
        if not path.is_dir():
            raise InvalidValue(f"directory {path} does not exist")
        if not os.access(path, os.W_OK | os.X_OK):
            raise PermissionRefused(f"{path} cannot be written by this account: choose another with directory=")

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def write_new(self, path: Path, data: bytes, owner: tuple[int, int]) -> None:
        configuration.write_new(path, data, owner)

    def write_tpm(self, data: bytes, path: Path, owner: tuple[int, int]) -> None:
        configuration.unpack_tpm(data, path, owner)

    def remove_file(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)

    def has_bridge(self, name: str) -> bool:
        return Path("/sys/class/net", name, "bridge").is_dir()

    def close(self) -> None:
        """Nothing is open."""
